"""The Dockerfile, which no test builds: the linter accepts it, and it copies what the workflow needs."""

import re
import subprocess

import pytest

from workflow_copy import ROOT, SOURCES

LINTER = ROOT / ".venv-tools" / "bin" / "hadolint"
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_it_copies_what_the_workflow_needs_and_nothing_that_is_not_there():
    copied = [source for sources in re.findall(r"^COPY (.+) \S+$", TEXT, re.MULTILINE) for source in sources.split()]
    assert set(SOURCES) <= set(copied)  # with which the tests of the workflow do
    assert all((ROOT / source).exists() for source in copied)


def test_its_platforms_are_those_of_set_up():
    named = set(re.findall(r"PLATFORM=(\w+)", TEXT))
    assert named == {"cpu", "cuda"} and all((ROOT / "envs" / f"{name}.txt").is_file() for name in named)


def test_the_linter_accepts_it():
    if not LINTER.exists():
        pytest.skip("needs make setup-tools")
    done = subprocess.run([LINTER, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
