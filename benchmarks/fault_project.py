"""The project that benchmarks/faults.py disturbs: an undisturbed run, its bits, and calls of Snakemake."""

import functools
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from gsm8k_grpo.common import files
from small_run import checkpoint_arrays, make_small_run

INTERVAL_STEPS, STEPS = 5, 20
SECONDS = 600  # after which a command counts as hanging
PRINTED = Path(tempfile.gettempdir(), f"faults-{os.getpid()}")  # not on a disk that gets full
REPORT = "results/report.html"
TRAINED = "results/tiny/training/summary.json"
EVALUATED = "results/tiny/evaluations/final/metrics.json"
WRONG = ("wrong", "traceback", "no reason", "hang", "lost steps")
# Not of the result: when and where it was made, by how many processes, and from which bytes of a checkpoint's files
# (Orbax writes the same arrays in files that differ; `kept_arrays` compares the arrays).
NOT_BITS = ("provenance", "starts", "memory", "seconds", "tokens_per_second", "sha256", "fingerprint", "processes")
# What no later stage reads, or what is compared with its hash when it is read.
NOT_OUTPUTS = ("logs", "records", "cache", "runs", "weights")
SENTENCE = re.compile(
    r"^.*(?:ERROR: |WorkflowError|NOT FINISHED|LockException|cannot be written|taken over|made again).*", re.M
)


def make_whole(folder: Path) -> Path:
    """A finished undisturbed run; made where it is missing."""
    if not (folder / REPORT).exists():
        shutil.rmtree(folder, ignore_errors=True)
        training = {"max_steps": STEPS, "checkpoint_interval_steps": INTERVAL_STEPS, "keep_checkpoints": 2}
        make_small_run(folder, training)
    return folder


def copy_of(whole: Path, folder: Path) -> Path:
    """A fresh copy of the undisturbed run, the times of files included."""
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(whole, folder, symlinks=True)


def forget(folder: Path, *stages: str) -> None:
    """Deletes what stages have made, so that the next command makes it again.

    The report too: where it is there, Snakemake misses nothing that it was made from.
    """
    made = {"train": "results/tiny/training", "evaluate": "results/tiny/evaluations/final"}
    records = {"train": "train-tiny", "evaluate": "evaluate-tiny-evaluations-final"}
    if stages:
        (folder / REPORT).unlink()
    for stage in stages:
        shutil.rmtree(folder / made[stage])
        (folder / f"results/records/{records[stage]}.json").unlink()


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Starts Snakemake in a session of its own; all that it prints goes to `PRINTED`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "1", "--configfile", "smallest.yaml"]
    with PRINTED.open("ab") as printed:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_again(folder: Path, target: str) -> tuple[int | None, str]:
    """The same command again, unlocked where it has to be; the status (None: it hangs) and all that was printed."""
    PRINTED.write_bytes(b"")
    status = _finish(start(folder, target))
    if status and "LockException" in PRINTED.read_text(errors="replace"):
        _finish(start(folder, target, "--unlock"))
        PRINTED.write_bytes(b"")
        status = _finish(start(folder, target))
    return status, PRINTED.read_text(errors="replace")


def _finish(process: subprocess.Popen) -> int | None:
    left = SECONDS
    try:
        while left > 0:
            try:
                return process.wait(1)
            except subprocess.TimeoutExpired:
                left -= psutil.Process(process.pid).status() != psutil.STATUS_STOPPED  # by whoever measures beside us
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_group(group: int) -> None:
    """Until no process of a group is left, for at most a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def judge(whole: Path, folder: Path, target: str, damaged: Path | None = None, broken: bytes | None = None) -> dict:
    """Runs the same command again and says how it ended: `end`, and what was `said`.

    Args:
      damaged: the file that was damaged, relative to the folder.
      broken: its damaged content.
    """
    status, text = run_again(folder, target)
    return conclude(whole, folder, target, status, text, damaged, broken)


def conclude(
    whole: Path,
    folder: Path,
    target: str,
    status: int | None,
    text: str,
    damaged: Path | None = None,
    broken: bytes | None = None,
) -> dict:
    """As `judge`, of a command that has been run."""
    said = next(iter(SENTENCE.findall(text)), "").strip()[:300]
    if status is None:
        return {"end": "hang", "said": text[-300:]}
    if "Traceback (most recent call last)" in text:
        return {"end": "traceback", "said": text[text.index("Traceback") :][:3000]}
    if status:
        return {"end": "sentence" if said else "no reason", "said": said or text[-300:]}
    still = damaged is not None and (folder / damaged).is_file() and (folder / damaged).read_bytes() == broken
    arrays = target != EVALUATED and not (still and "runs" in damaged.parts)
    different = differences(_bits_of_whole(whole, target, arrays), bits(folder, target, arrays))
    named = damaged is not None and any(part in text for part in {str(damaged), damaged.name})
    if different:
        return {"end": "sentence" if named else "wrong", "said": f"{different[:3]} {said}"}
    if still and damaged.parts[1] not in ("logs", "records", "cache") and "tensorboard" not in damaged.parts:
        checked = not set(NOT_OUTPUTS).isdisjoint(damaged.parts)
        return {
            "end": "sentence" if named else "not read" if checked else "wrong",
            "said": said or "nothing to be done",
        }
    return {"end": "same bits", "said": said}


@functools.cache
def _bits_of_whole(whole: Path, target: str, arrays: bool) -> dict[str, str]:
    return bits(whole, target, arrays)


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """The names of what is not the same."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def bits(folder: Path, target: str, arrays: bool = False) -> dict[str, str]:
    """A hash of each result, without when and where it was made; with `arrays`, of each array of checkpoints too."""
    found = {}
    for path in sorted((folder / "results").rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or not set(NOT_OUTPUTS).isdisjoint(name.parts) or path.name.startswith("."):
            continue
        if target != REPORT and not name.is_relative_to(Path(target).parent):
            continue
        found[str(name)] = _digest(path)
    if arrays:
        found |= kept_arrays(folder / "results/tiny/training")
    return found


def _digest(path: Path) -> str:
    if path.suffix == ".json":
        content = files.canonical_json(_without_circumstances(json.loads(path.read_text(encoding="utf-8"))))
    elif path.name == "metrics.csv":
        metrics = pd.read_csv(path)
        content = metrics[[name for name in metrics if not name.endswith("_seconds")]].to_csv()
    elif path.suffix in (".html", ".svg"):
        content = "there"  # they show seconds
    else:
        return files.sha256_file(path)
    return files.sha256_text(content)


def _without_circumstances(value: object) -> object:
    if isinstance(value, list):
        return [_without_circumstances(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_circumstances(each)
        for key, each in value.items()
        if key not in NOT_BITS and not key.endswith("_seconds")
    }


def kept_arrays(training: Path) -> dict[str, str]:
    """A hash of each array (adapters and optimizer state) of each kept checkpoint."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of files that these checkpoints never have
    kept = json.loads((training / "checkpoints.json").read_text())["checkpoints"]
    return {
        f"{each['name']} {name}": hashlib.sha256(array).hexdigest()
        for each in kept
        for name, array in checkpoint_arrays(training / each["path"]).items()
    }
