"""A run over several sessions on several machines: only results/ is carried from one to the next."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gsm8k_grpo.common.errors import NOT_FINISHED_STATUS
from small_run import assert_the_same, snakemake

pytestmark = pytest.mark.slow
REPORT = "results/report.html"


def new_machine(finished, tmp_path, name, before=None):
    """A fresh clone at a path of its own, with the results of the machine before and times that say nothing."""
    folder = tmp_path / name / "clone"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    if before:
        shutil.copytree(before / "results", folder / "results", copy_function=shutil.copyfile)
        for age, path in enumerate(path for path in (folder / "results").rglob("*") if path.is_file()):
            os.utime(path, (1e9 - age, 1e9 - age))
        (folder / "results/logs/tiny/train.log").unlink(missing_ok=True)
    return folder


def killed_in_training(folder, number):
    """Starts the run, and sends a signal to all its processes once training goes on."""
    command = [sys.executable, "-m", "snakemake", REPORT, "--cores", "1", "--configfile", "smallest.yaml"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PATH": path}, start_new_session=True, **pipes)
    log, deadline = folder / "results/logs/tiny/train.log", time.monotonic() + 300
    while not (log.exists() and "LoRA parameters" in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    process.wait(timeout=120)
    while number == signal.SIGTERM and "SIGTERM" not in log.read_text():  # it still saves
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_sessions_that_end_by_deadline_sigterm_and_sigkill_end_in_the_bits_of_an_undisturbed_run(finished, tmp_path):
    first = new_machine(finished, tmp_path, "first")
    status, printed = snakemake(first, REPORT, "--config", "stop_after_hours=1.0e-9")
    assert status == NOT_FINISHED_STATUS and "Run the same command again: it goes on from there." in printed
    assert list((first / "results/tiny").glob("evaluations*/base/unfinished-*.jsonl"))  # it stopped in an evaluation

    second = new_machine(finished, tmp_path, "second", first)
    killed_in_training(second, signal.SIGTERM)
    third = new_machine(finished, tmp_path, "third", second)
    killed_in_training(third, signal.SIGKILL)
    last = new_machine(finished, tmp_path, "last", third)
    status, printed = snakemake(last, REPORT)
    assert status == 0, printed

    whole, results = finished / "results", last / "results"
    assert_the_same(whole / "tiny/training", results / "tiny/training")
    for path in whole.glob("tiny/evaluations*/*/completions.jsonl"):
        assert (results / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    for name in ("data/word-problems/download", "models/tiny/base_model", "tiny/prompts", "tiny/evaluations-base"):
        assert "taken over: " in (results / f"logs/{name}.log").read_text(), name
    # The whole of it on one more machine: every stage is taken over, and then there is nothing to do.
    copy = new_machine(finished, tmp_path, "copy", last)
    status, printed = snakemake(copy, REPORT)
    jobs = printed.count("Finished jobid: ")
    assert status == 0 and jobs > 12 and printed.count("taken over: results/") == jobs, printed
    status, printed = snakemake(copy, REPORT)
    assert status == 0 and "Nothing to be done" in printed
