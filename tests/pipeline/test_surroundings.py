"""Training, evaluation and report where locale, home, path or another Snakemake are not as usual."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from small_run import assert_the_same

pytestmark = pytest.mark.slow

REPORT = "results/report.html"
MADE_AGAIN = ("training", "evaluations/final")
RECORDS = ("train-tiny", "evaluate-tiny-evaluations-final", "report")
UNSET = None


def copy_without(finished, folder):
    """The small run without its training, an evaluation and the report."""
    shutil.copytree(finished, folder, symlinks=True)
    for name in MADE_AGAIN:
        shutil.rmtree(folder / "results/tiny" / name)
    for name in RECORDS:
        (folder / f"results/records/{name}.json").unlink()
    (folder / REPORT).unlink()
    return folder


def start(folder, **changed):
    """Starts Snakemake; a variable of the environment that is `UNSET` is left out."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **changed}
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", REPORT, "--cores", "1", "--configfile", "smallest.yaml"],
        cwd=folder,
        env={name: value for name, value in environment.items() if value is not UNSET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


OLD_LOCALE = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("name", "home", "environment"),
    [
        ("ü 数", UNSET, OLD_LOCALE),
        ('it\'s "a" $HOME; ü 数', "not/there", {}),
    ],
    ids=["a locale that lacks the path's signs and no home", "a path of many signs and a home that is not there"],
)
def test_training_evaluation_and_report_end_in_the_same_bits(finished, tmp_path, name, home, environment):
    """A second Snakemake in the same folder says so and disturbs nothing."""
    folder = copy_without(finished, tmp_path / name)
    environment = {**environment, "HOME": home and str(tmp_path / home), "XDG_CACHE_HOME": UNSET}
    first, deadline = start(folder, **environment), time.monotonic() + 300
    while not list(folder.glob("results/tiny/training/runs/*")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    second = start(folder, **environment)
    printed, _ = second.communicate(timeout=300)
    assert second.returncode == 1 and "Directory cannot be locked" in printed and "Traceback" not in printed, printed
    printed, _ = first.communicate(timeout=600)
    assert first.returncode == 0 and "Traceback" not in printed, printed
    assert_the_same(finished / "results/tiny/training", folder / "results/tiny/training")
    rows = "results/tiny/evaluations/final/completions.jsonl"
    assert (folder / rows).read_bytes() == (finished / rows).read_bytes()
    assert (folder / REPORT).stat().st_size > 100_000
