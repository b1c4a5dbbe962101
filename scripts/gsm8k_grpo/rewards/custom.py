"""Rewards of a user's own: `path/to/file.py:function` in training.rewards.

The function gets `prompts`, `completions` and `answers` by name (lists of text, one item a completion, as TRL's
rewards do) and returns one number a completion. `find_fault` checks what it can without running the file, before any
job starts. Stages run the file in a process of its own (custom_process.py).
"""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError

# Columns reward_… with another meaning: the deviation of the summed reward, and the penalty of long completions.
RESERVED_COLUMNS = ("std", "overlong")


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
    return {path: hashlib.sha256(read_source(root / path)).hexdigest() for path in reward_files(names)}


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
            tree = ast.parse(read_source(root / path))
        except PipelineError as error:
            return f"{name}: {error}; write its path relative to the project's folder"
        except (SyntaxError, ValueError) as error:
            return f"{name}: {path}, line {getattr(error, 'lineno', None) or 1}: not valid Python ({error.args[0]})"
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if function not in defined:
            return f"{name}: {path} has no `def {function}`; it has {', '.join(defined) or 'no function at all'}"
    return None


def read_source(path: Path) -> bytes:
    """The bytes of a file of Python.

    Raises:
      PipelineError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
