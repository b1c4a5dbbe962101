"""Calls a reward of a user's own, and turns what it returns into numbers. Its code runs here, and nowhere else."""

import functools
import inspect
import math
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards.custom import read_source, split_name

ARGUMENTS = ("prompts", "completions", "answers")
LARGEST_REWARD = 1e12  # larger rewards overflow the squared gradients, which are float32


def call_function(name: str, rows: Sequence[dict], completions: Sequence[str], root: Path) -> list[float]:
    """One reward of the user's own for each completion.

    Args:
      name: `path/to/file.py:function`.
      rows: the row of each of the B completions, with `id`, `prompt` and `answer`.
      completions: B texts.
      root: the project's folder.

    Returns:
      B finite numbers, at most `LARGEST_REWARD` in size.

    Raises:
      PipelineError: the function raised an exception or returned something else; names the function and the row.
    """
    function = load_function(name, root)
    try:
        result = function(
            prompts=[row["prompt"] for row in rows],
            completions=list(completions),
            answers=[row["answer"] for row in rows],
        )
        values = _plain(result)
        if isinstance(values, (list, tuple)):
            values = [_plain(value) for value in values]
    except BaseException as error:
        raise PipelineError(f"training.rewards: {name} {_raised(error, root / split_name(name)[0])}") from error
    if not isinstance(values, list):
        raise PipelineError(
            f"training.rewards: {name} returned {type(result).__name__}, expected a list of one number a completion"
        )
    if len(values) != len(completions):
        raise PipelineError(
            f"training.rewards: {name} returned {len(values)} numbers for the {len(completions)} completions of the "
            f"rows {rows[0]['id']} to {rows[-1]['id']}; it must return one for each completion"
        )
    for index, (value, row, completion) in enumerate(zip(values, rows, completions, strict=True)):
        if not _is_usable(value):
            raise PipelineError(
                f"training.rewards: {name} returned {_shown(value)!r} for row {row['id']} (completion {index + 1} of "
                f"{len(completions)}: {completion[:60]!r}); expected a finite number, at most {LARGEST_REWARD:.0e} in "
                "size"
            )
    return [float(value) for value in values]


@functools.cache
def load_function(name: str, root: Path) -> Callable:
    """The function of `path/to/file.py:function`. This runs the file, once a process.

    Raises:
      PipelineError: the file fails, has no such function, or the function takes other arguments.
    """
    path, function = split_name(name)
    try:
        found = getattr(_module(root / path), function, None)
    except BaseException as error:
        raise PipelineError(f"training.rewards: {name}: its file {_raised(error, root / path)}") from error
    if not callable(found):
        raise PipelineError(f"training.rewards: {name}: expected a function, found {type(found).__name__}")
    try:
        inspect.signature(found).bind(**dict.fromkeys(ARGUMENTS))
    except TypeError as error:
        raise PipelineError(
            f"training.rewards: {name} cannot be called with {', '.join(ARGUMENTS)} ({error}); "
            f"write def {function}({', '.join(ARGUMENTS)})"
        ) from None
    return found


@functools.cache
def _module(path: Path) -> types.ModuleType:
    # `import` may take an older version from __pycache__, and would write one there.
    module = types.ModuleType(str(path))
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up their own module
    exec(compile(read_source(path), str(path), "exec"), module.__dict__)
    return module


def _raised(error: BaseException, path: Path) -> str:
    """The exception, and the line of the user's file that raised it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f" in line {lines[-1]}" if lines else ""
    text = " ".join(str(error).split())[:200]
    return f"raised {type(error).__name__}{place}{': ' if text else ''}{text}"


def _plain(value: object) -> object:
    """Arrays and numbers of NumPy, JAX and PyTorch as lists and numbers of Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _shown(value: object) -> str:
    """The beginning of a value's text."""
    try:
        return str(value)[:40]
    except ValueError:  # an integer of more digits than Python prints
        return f"an integer of {value.bit_length()} bits"


def _is_usable(value: object) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value) and abs(value) <= LARGEST_REWARD
    except OverflowError:  # an integer larger than any float
        return False
