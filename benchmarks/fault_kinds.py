"""The faults of benchmarks/faults.py.

Each disturbs a copy of the undisturbed run, and returns what was done (`what`) and how the same command ended (`end`,
`said`).
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from fault_project import (
    EVALUATED,
    INTERVAL_STEPS,
    PRINTED,
    REPORT,
    TRAINED,
    conclude,
    copy_of,
    forget,
    judge,
    run_again,
    start,
    wait_for_group,
)

YEAR_SECONDS = 365 * 86400


class Skipped(Exception):
    """Why this machine cannot have a kind of fault."""


def kill(whole: Path, folder: Path, rng: random.Random) -> dict:
    """A signal at a random moment of a training or an evaluation; often after the first checkpoint."""
    stage = rng.choice(("train", "train", "evaluate"))
    target = TRAINED if stage == "train" else EVALUATED
    number = rng.choice((signal.SIGKILL, signal.SIGTERM))
    whom = rng.choice(("stage", "Snakemake", "both"))
    after_checkpoint = stage == "train" and rng.random() < 0.7
    copy_of(whole, folder)
    PRINTED.write_bytes(b"")
    forget(folder, stage)
    process = start(folder, target)
    if after_checkpoint:
        _wait(process, lambda: _listed_step(folder) > 0)
        seconds = rng.uniform(0, 2)
    else:
        _wait(process, lambda: _stage_process(process, stage))
        seconds = rng.uniform(0, 8)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    if whom == "both":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    elif whom == "Snakemake":
        process.send_signal(number)
    elif running := _stage_process(process, stage):
        running.send_signal(number)
    if whom != "Snakemake":  # alone, it leaves its stage at work: the same command comes at once
        process.wait()
        wait_for_group(process.pid)
    elif number == signal.SIGTERM:
        process.wait()
    steps, first = _rows(folder), PRINTED.read_text(errors="replace")
    found = judge(whole, folder, target)
    if "Traceback (most recent call last)" in first:
        found = {"end": "traceback", "said": first[first.index("Traceback") :][:3000]}
    starts = _starts(folder)
    if found["end"] == "same bits" and stage == "train" and steps - starts[-1] > INTERVAL_STEPS:
        found = {"end": "lost steps", "said": f"{steps} steps were done, and training went on after {starts[-1]}"}
    when = f"{seconds:.1f} s after {'the first checkpoint' if after_checkpoint else 'its start'}"
    return {"what": f"{number.name} of {whom} in {stage}, {when}, at step {steps}", **found}


def flip(whole: Path, folder: Path, rng: random.Random) -> dict:
    """One flipped bit in a random file below results/."""
    return _damage(whole, folder, rng, cut=False)


def cut(whole: Path, folder: Path, rng: random.Random) -> dict:
    """A random file below results/ cut at a random byte."""
    return _damage(whole, folder, rng, cut=True)


def _damage(whole: Path, folder: Path, rng: random.Random, cut: bool) -> dict:
    copy_of(whole, folder)
    results = folder / "results"
    # Each folder is as likely as another: checkpoints have most of the files.
    by_folder: dict[Path, list[Path]] = {}
    for path in sorted(results.rglob("*")):
        if path.is_file() and path.stat().st_size and "cache" not in path.relative_to(results).parts:
            by_folder.setdefault(path.parent, []).append(path)
    damaged = rng.choice(by_folder[rng.choice(sorted(by_folder))])
    content, place = bytearray(damaged.read_bytes()), rng.randrange(damaged.stat().st_size)
    if cut:
        del content[place:]
    else:
        content[place] ^= 1 << rng.randrange(8)
    keeps_time, before = rng.random() < 0.5, damaged.stat()
    damaged.write_bytes(content)
    if keeps_time:
        os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Some stage reads it again, or nothing has to be made.
    stages = rng.choice(((), ("evaluate",), ("evaluate",), ("train", "evaluate")))
    gone = {"train": "results/tiny/training/", "evaluate": "results/tiny/evaluations/final/"}
    relative = damaged.relative_to(folder)
    if any(str(relative).startswith(gone[stage]) for stage in stages):
        stages = ()
    forget(folder, *stages)
    found = judge(whole, folder, REPORT, relative, bytes(content))
    kept = "time kept" if keeps_time else "time new"
    again = f"; without what {' and '.join(stages)} made" if stages else ""
    return {"what": f"{relative}, byte {place} ({kept}){again}", **found}


def full_disk(whole: Path, folder: Path, rng: random.Random) -> dict:
    """A disk that gets full in a training; then there is room again."""
    stages = rng.choice((("train",), ("evaluate",), ("train", "evaluate")))
    with _mounted(whole, folder) as (project, mount):
        forget(project, *stages)
        free = rng.choice((0, 1024, 1200, 1500, 2000, 4000)) * 1024
        used = psutil.disk_usage(str(mount)).used
        subprocess.run(["mount", "-o", f"remount,size={used + free}", mount], check=True)
        status, first = run_again(project, REPORT)
        found = conclude(whole, project, REPORT, status, first)
        said = found
        if status:
            subprocess.run(["mount", "-o", "remount,size=4g", mount], check=True)
            if found["end"] == "sentence":
                found = judge(whole, project, REPORT)
    return {"what": f"{free // 1024} KiB are free, {' and '.join(stages)}: {said['said']}", **found}


def read_only(whole: Path, folder: Path, rng: random.Random) -> dict:
    """results/, or a folder below it, that cannot be written to; then it can be."""
    stages = rng.choice((("train",), ("evaluate",)))
    with _mounted(whole, folder) as (project, _):
        forget(project, *stages)
        places = ("results", "results/tiny", "results/logs", "results/records", "results/models", ".snakemake")
        place = project / rng.choice(places)
        subprocess.run(["mount", "--bind", place, place], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
            status, first = run_again(project, REPORT)
        finally:
            subprocess.run(["umount", place], check=True)
        found = conclude(whole, project, REPORT, status, first)
        said = found
        if found["end"] == "sentence":
            found = judge(whole, project, REPORT)
    return {"what": f"{place.relative_to(project)}, {' and '.join(stages)}: {said['said']}", **found}


def clocks(whole: Path, folder: Path, rng: random.Random) -> dict:
    """Times of some files in the past or in the future. What is said of the future is done: touch, and again."""
    copy_of(whole, folder)
    paths = [path for path in sorted((folder / "results").rglob("*")) if path.is_file() and "cache" not in path.parts]
    chosen = rng.sample(paths, rng.randint(1, len(paths)))
    future = rng.random() < 0.5
    for path in chosen:
        moved = time.time() + (1 if future else -1) * rng.uniform(0, YEAR_SECONDS)
        os.utime(path, (moved, moved))
    status, first = run_again(folder, REPORT)
    found = said = conclude(whole, folder, REPORT, status, first)
    if future and found["end"] == "sentence":
        for path in chosen:
            if path.exists():
                path.touch()
        found = judge(whole, folder, REPORT)
    return {"what": f"{len(chosen)} files in the {'future' if future else 'past'}: {said['said']}", **found}


def copy(whole: Path, folder: Path, rng: random.Random) -> dict:
    """The results in a fresh clone, with the times of files in a random order; in half of the cases not finished."""
    copy_of(whole, folder)
    shutil.rmtree(folder / ".snakemake")
    stages = rng.choice(((), ("evaluate",), ("train", "evaluate")))
    forget(folder, *stages)
    paths = [path for path in sorted((folder / "results").rglob("*")) if path.is_file()]
    rng.shuffle(paths)
    for age, path in enumerate(paths):
        os.utime(path, (time.time() - age, time.time() - age))
    found = judge(whole, folder, REPORT)
    missing = f" without what {' and '.join(stages)} made" if stages else ""
    return {"what": f"a copy{missing}", **found}


KINDS = {
    "kill": kill,
    "flip": flip,
    "cut": cut,
    "full disk": full_disk,
    "copy": copy,
    "read only": read_only,
    "clocks": clocks,
}


@contextlib.contextmanager
def _mounted(whole: Path, folder: Path):
    """A copy of the project on a disk of its own."""
    if os.geteuid():
        raise Skipped("only root can mount a disk of its own")
    mount = Path(tempfile.mkdtemp(prefix="disk-"))
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", mount], capture_output=True, text=True)
        if done.returncode:
            raise Skipped(f"no disk of its own can be mounted here ({done.stderr.strip()})")
        try:
            yield copy_of(whole, mount / "project"), mount
        finally:
            subprocess.run(["umount", "--lazy", mount], check=True)
    finally:
        mount.rmdir()


def _wait(process: subprocess.Popen, ready) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not ready():
        time.sleep(0.01)


def _stage_process(snakemake: subprocess.Popen, stage: str) -> psutil.Process | None:
    """The process of scripts/STAGE.py below Snakemake, not the one that keeps its log."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(snakemake.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.cmdline()[1:2] == [f"scripts/{stage}.py"]:
                    return child
    return None


def _rows(folder: Path) -> int:
    """The steps that a training has logged."""
    return max(
        (len(path.read_bytes().splitlines()) for path in folder.glob("results/tiny/training/runs/*/metrics.jsonl")),
        default=0,
    )


def _listed_step(folder: Path) -> int:
    """The newest complete checkpoint."""
    listed = folder.glob("results/tiny/training/runs/*/checkpoints.json")
    return max((int(step) for path in listed for step in json.loads(path.read_text())["checkpoints"]), default=0)


def _starts(folder: Path) -> list[int]:
    """The steps after which the processes of a finished training began."""
    path = folder / TRAINED
    return json.loads(path.read_text())["starts"] if path.exists() else [0]
