"""Rewards of a user's own: `path/to/file.py:function` in training.rewards.

The function gets `prompts`, `completions` and `answers` by name (lists of text, one item a completion, as TRL's
rewards do) and returns one number a completion. `find_fault` checks what it can without running the file, before any
job starts. Only the stages `train` and `score` run the file.
"""

import ast
import functools
import hashlib
import inspect
import math
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError

ARGUMENTS = ("prompts", "completions", "answers")
# Columns reward_… with another meaning: the deviation of the summed reward, and the penalty of long completions.
RESERVED_COLUMNS = ("std", "overlong")

LARGEST_REWARD = 1e12  # larger rewards overflow the squared gradients, which are float32


def is_custom(name: str) -> bool:
    """Whether a reward's name means a function in a file."""
    return ":" in name


def split_name(name: str) -> tuple[str, str]:
    """The file, without `./`, and the function of `path/to/file.py:function`."""
    path, _, function = name.rpartition(":")
    return Path(path).as_posix(), function


def column_label(name: str) -> str:
    """A reward's name in columns and plots: of a function in a file, the function's name."""
    return split_name(name)[1] if is_custom(name) else name


def reward_files(names: Iterable[str]) -> list[str]:
    """The files of all rewards that are functions in files, each once, relative to the project's folder."""
    return sorted({split_name(name)[0] for name in names if is_custom(name)})


def file_hashes(names: Iterable[str], root: Path) -> dict[str, str]:
    """The SHA-256 of each file of the named rewards, by its path.

    Raises:
      PipelineError: a file cannot be read.
    """
    return {path: hashlib.sha256(_source(root / path)).hexdigest() for path in reward_files(names)}


def find_fault(names: Iterable[str], built_in: Iterable[str], root: Path) -> str | None:
    """What is wrong with the names of rewards, as far as it shows without running a file; None if nothing is."""
    owners = {name: "a reward of this project" for name in built_in}
    owners |= {name: f"the column reward_{name} of something else" for name in RESERVED_COLUMNS}
    for name in filter(is_custom, names):
        path, function = split_name(name)
        if function in owners:
            return f"{name}: {function} is already the name of {owners[function]}; rename the function"
        owners[function] = name
        try:
            tree = ast.parse(_source(root / path))
        except PipelineError as error:
            return f"{name}: {error}; write its path relative to the project's folder"
        except (SyntaxError, ValueError) as error:
            return f"{name}: {path}, line {getattr(error, 'lineno', None) or 1}: not valid Python ({error.args[0]})"
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if function not in defined:
            return f"{name}: {path} has no `def {function}`; it has {', '.join(defined) or 'no function at all'}"
    return None


def score_custom(name: str, rows: list[dict], completions: list[str], root: Path) -> list[float]:
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
        # New lists, so that a function that changes them changes nothing else.
        result = function(
            prompts=[row["prompt"] for row in rows],
            completions=list(completions),
            answers=[row["answer"] for row in rows],
        )
    except (Exception, SystemExit) as error:
        raise PipelineError(f"training.rewards: {name} {_raised(error, root / split_name(name)[0])}") from error
    values = result.tolist() if hasattr(result, "tolist") else result  # NumPy and JAX arrays
    if not isinstance(values, (list, tuple)):
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
                f"training.rewards: {name} returned {str(value)[:40]!r} for row {row['id']} (completion {index + 1} of "
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
    except (Exception, SystemExit) as error:
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
    exec(compile(_source(path), str(path), "exec"), module.__dict__)
    return module


def _source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None


def _raised(error: BaseException, path: Path) -> str:
    """The exception, and the line of the user's file that raised it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f" in line {lines[-1]}" if lines else ""
    text = " ".join(str(error).split())[:200]
    return f"raised {type(error).__name__}{place}{': ' if text else ''}{text}"


def _is_usable(value: object) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value) and abs(value) <= LARGEST_REWARD
    except OverflowError:  # an integer larger than any float
        return False
