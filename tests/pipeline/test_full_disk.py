"""A full disk in every stage: one sentence, what was finished stays, and the same command goes on once there is room.

Full disks in the middle of a checkpoint, of an export and of a download have tests of their own, beside their stages.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gsm8k_grpo.config.merging import merge
from small_run import ROOT, snakemake

pytestmark = pytest.mark.slow

RULES = [
    name
    for path in sorted((ROOT / "rules").glob("*.smk"))
    for name in re.findall(r"^rule (\w+):$", path.read_text(), re.MULTILINE)
]
TARGETS = ("results/report.html", "results/tiny/export-tunix/README.md", "results/tiny/preflight.json")
CHOSEN = {"preflight": {"accelerator": "t4-16gb"}}  # needs no TPU's compiler
# Where a stage shall come further than its first file: the room that is left, and what does not fit into it any more.
LATER = {
    "base_model": (80 * 2**10, "weights: the weights"),
    "evaluate": (2**12, ".jsonl"),
    "export": (80 * 2**10, "model.safetensors"),
    "export_tunix": (80 * 2**10, "model_params: the weights"),
}


@pytest.fixture(scope="module")
def commands(finished):
    """The command of one job of each rule, without the runner around it."""
    found = {}
    for config in ((), ("--config", "seeds=[0,1]")):
        asked = ("--dry-run", "--printshellcmds", "--forceall", *TARGETS[: 1 if config else None], *config)
        status, printed = snakemake(finished, *asked)
        assert status == 0, printed
        for command, name in re.findall(r" -- (python3 scripts/(\w+)\.py .*)$", printed, re.MULTILINE):
            found.setdefault(name, command)
    return found


@pytest.fixture(scope="module")
def project(finished, exported, tmp_path_factory):
    """The finished project with its results on a small disk of its own; only root can make one."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("full") / "project", ignore=_is_results)
    results = folder / "results"
    results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(results)]
    if os.getuid() or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs root, to mount a small disk")
    shutil.copytree(finished / "results", results, dirs_exist_ok=True, ignore=shutil.ignore_patterns("cache"))
    for seed in range(2):
        shutil.copytree(results / "tiny", results / f"tiny-seed-{seed}")
    yield folder
    subprocess.run(["umount", "-l", str(results)], check=True)


def _is_results(folder, names):
    return {"results", ".snakemake"} & set(names)


def finished_files(results):
    """All that is there, but for what a stage that has not finished keeps of its work."""
    return {
        path: path.read_bytes()
        for path in results.rglob("*")
        if path.is_file() and not {"runs", "logs"} & set(path.parts) and not path.name.startswith("unfinished-")
    }


@pytest.mark.parametrize("rule", RULES)
def test_a_stage_on_a_full_disk_ends_in_one_sentence_and_goes_on_later(rule, project, commands, tmp_path):
    if rule in ("tfds_rows", "export_gguf"):
        pytest.skip("its environment is another one")
    results, filling = project / "results", project / "results" / "filling"

    command = commands[rule]
    for chosen in re.findall(r"results/logs/settings/\w+\.json", command):
        if rule == "preflight" or not (project / chosen).is_file():  # a dry run names the file and does not write it
            settings = yaml.safe_load((results / "tiny" / "settings.yaml").read_text())
            (tmp_path / "settings.yaml").write_text(yaml.safe_dump(merge(settings, CHOSEN)))
            command = command.replace(chosen, str(tmp_path / "settings.yaml"))

    def run():
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        options = {"cwd": project, "env": {**os.environ, "PATH": path}, "capture_output": True, "text": True}
        done = subprocess.run(["bash", "-c", command], **options)
        return done.returncode, done.stdout + done.stderr

    before, disk = finished_files(results), os.statvfs(results)
    left_bytes, unwritten = LATER.get(rule, (0, ""))
    with filling.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, disk.f_bavail * disk.f_frsize - left_bytes)
    status, printed = run()
    filling.unlink()
    assert status == 1 and "Traceback" not in printed and "Exception ignored" not in printed, printed
    (error,) = (line for line in printed.splitlines() if line.startswith("ERROR: "))
    assert "cannot be written" in error and "No space left on device" in error and "free some space" in error
    assert unwritten in error
    assert finished_files(results) == before
    status, printed = run()
    assert status == 0, printed
    assert not [path for path in finished_files(results).keys() - before.keys() if path.name.startswith(".")]
