"""Command lines of the stages, made from their functions: each keyword is an option."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import cyclopts

from gsm8k_grpo.common.errors import exit_on_error

# Options that several stages have.
Settings = Annotated[str, cyclopts.Parameter(help="the stage's settings: a settings.yaml, a JSON file, or JSON text")]
ResultsFolder = Annotated[Path, cyclopts.Parameter(help="folder of all artifacts")]
ModelFolder = Annotated[Path, cyclopts.Parameter(help="folder of the base model")]
Completions = Annotated[Path, cyclopts.Parameter(help="completions.jsonl of an evaluation of this checkpoint")]
OutputFolder = Annotated[Path, cyclopts.Parameter(help="folder to write to")]
OutputFile = Annotated[Path, cyclopts.Parameter(help="file to write")]


def make_app(stage: Callable[..., None]) -> cyclopts.App:
    """The command line of a stage, to be called with a list of arguments, or without for the process's own.

    Args:
      stage: a function of keywords. The docstring of its module is the text of `--help`.
    """
    app = cyclopts.App(
        help=stage.__globals__["__doc__"],
        help_format="plaintext",
        version_flags=[],
        result_action="return_value",
        default_parameter=cyclopts.Parameter(consume_multiple=True, negative=()),
    )
    app.default(stage)
    return app


def run_stage(stage: Callable[..., None]) -> None:
    """Runs a stage with the options of the command line; an expected failure ends the process with one line."""
    exit_on_error(make_app(stage))
