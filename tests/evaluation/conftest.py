"""What the tests of evaluation share."""

import runpy

import pytest

from gsm8k_grpo.common import command_line


@pytest.fixture
def run_script(root):
    """Runs a stage's `main` in this process: `run_script("compare", "--base", path, ...)`."""

    def run(name, *arguments):
        main = runpy.run_path(str(root / "scripts" / f"{name}.py"))["main"]
        command_line.make_app(main)([*map(str, arguments)])

    return run
