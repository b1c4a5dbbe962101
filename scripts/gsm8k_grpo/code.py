"""Which source files a stage runs: its entry point and all modules of this library that it imports, directly or not.

The rules take these files as inputs, so that a stage reruns when code that it runs changes, and no other.
"""

import ast
import functools
from pathlib import Path

SCRIPTS = Path(__file__).parents[1]
PACKAGE = Path(__file__).parent.name


@functools.cache
def _imported(path: Path) -> tuple[Path, ...]:
    """The library's modules that one source file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE]
        else:
            continue
        for name in names:
            module = SCRIPTS.joinpath(*name.split("."))
            found += [file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()]
    return tuple(found)


@functools.cache
def files(entry: str) -> tuple[str, ...]:
    """The files that `scripts/ENTRY.py` runs, itself first, relative to the project's folder, in a fixed order."""
    start = SCRIPTS / f"{entry}.py"
    seen, waiting = {start}, [start]
    while waiting:
        for path in _imported(waiting.pop()):
            if path not in seen:
                seen.add(path)
                waiting.append(path)
    relative = sorted(path.relative_to(SCRIPTS.parent).as_posix() for path in seen - {start})
    return (start.relative_to(SCRIPTS.parent).as_posix(), *relative)
