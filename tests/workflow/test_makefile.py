"""Set-up keeps the environment that is there."""

import os
import shutil
import subprocess

import pytest

from gsm8k_grpo.common.layout import ROOT


@pytest.fixture
def project(tmp_path):
    """A folder with the Makefile and the lists of packages, without an environment."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    return tmp_path


def make(project, *arguments):
    """Runs make; returns (exit status, everything printed)."""
    ours = ("PLATFORM", "VENV", "MAKEFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(["make", *arguments], cwd=project, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_without_an_environment_that_of_the_cpu_is_made(project):
    status, printed = make(project, "--dry-run", "setup")
    assert status == 0 and "-m venv --clear .venv" in printed and "envs/cpu.txt" in printed


@pytest.mark.parametrize("target", ["setup", "report", "setup-tfds"])
def test_an_environment_of_another_platform_stays(project, target):
    (project / ".venv").mkdir()
    (project / ".venv" / ".ready-tpu").touch()
    status, printed = make(project, "--dry-run", target)
    assert status == 0 and "--clear .venv " not in f"{printed} " and "envs/cpu.txt" not in printed
    status, printed = make(project, "--dry-run", target, "PLATFORM=cuda")  # asked for
    assert status == 0 and "envs/cuda.txt" in printed


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("setup", ".venv"),
        ("setup-tfds", ".venv-tfds"),
        ("setup-tools", ".venv-tools"),
        ("setup-benchmarks", ".venv-benchmarks"),
        ("setup-lm-eval", ".venv-lm-eval"),
        ("setup-gguf", ".venv-gguf"),
        ("docs", ".venv-docs"),
    ],
)
def test_an_environment_behind_a_link_is_not_replaced(project, target, name):
    for folder in (".venv", "elsewhere"):
        (project / folder).mkdir()
    (project / ".venv" / ".ready-cpu").touch()
    (project / "elsewhere" / "kept").touch()
    if name == ".venv":
        shutil.rmtree(project / name)
    (project / name).symlink_to("elsewhere")
    status, printed = make(project, target, "PYTHON=true")
    assert status != 0 and f"{name} is a link to another environment" in printed
    assert (project / "elsewhere" / "kept").exists()


@pytest.mark.parametrize("target", ["carry", "restore"])
def test_an_archive_may_lie_in_a_folder_with_a_space(project, target):
    _, printed = make(project, "--dry-run", target, "ARCHIVE=/My Drive/carry.tar")
    assert '--archive "/My Drive/carry.tar"' in printed
