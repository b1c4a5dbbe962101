"""What the tests of evaluation share."""

import runpy
import sys

import pytest


@pytest.fixture
def run_script(root, monkeypatch):
    """Runs a stage's `main` in this process: `run_script("compare", "--base", path, ...)`."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(root / "scripts" / f"{name}.py"))["main"]()

    return run
