"""Which code a stage runs, as one hash: its script, every module of this library that it imports, and their data files.

The rules take the hash as a parameter, so that a stage reruns when code that it runs changes its meaning. Comments,
docstrings and file times do not count.
"""

import ast
import functools
import hashlib
import re
from pathlib import Path

from gsm8k_grpo.common.layout import ROOT

SCRIPTS = ROOT / "scripts"
PACKAGE = "gsm8k_grpo"
# How a module names the templates or the schema that it reads: both forms name a file or folder beside the module.
_DATA = re.compile(r'Path\(__file__\)\.(?:parent / |with_name\()"([^"]+)"')

# The types of settings decide whether a stage starts, not what it computes: a new setting or limit reruns nothing.
_TYPES_OF_SETTINGS = re.compile(r"/config/(schema|blocks_\w+)\.py$")


@functools.cache
def _imports_and_code(path: Path) -> tuple[tuple[str, ...], str]:
    """What one Python file imports of the library, anywhere in it, and its code without comments and docstrings."""
    tree = ast.parse(path.read_bytes())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tuple(name for name in found if name.split(".")[0] == PACKAGE), ast.unparse(tree)


def _imported_files(path: Path) -> list[Path]:
    """The library's modules that one source file imports."""
    modules = [SCRIPTS.joinpath(*name.split(".")) for name in _imports_and_code(path)[0]]
    files = [file for module in modules for file in (module.with_suffix(".py"), module / "__init__.py")]
    return [file for file in files if file.is_file()]


@functools.cache
def _data_files(path: Path) -> tuple[Path, ...]:
    """The files beside a module that it reads."""
    found = []
    for name in _DATA.findall(path.read_text(encoding="utf-8")):
        beside = path.with_name(name)
        found += [beside] if beside.is_file() else sorted(each for each in beside.rglob("*") if each.is_file())
    return tuple(found)


@functools.cache
def source_files(entry: str) -> tuple[str, ...]:
    """The files that `scripts/ENTRY.py` runs, itself first, relative to the project's folder, in a fixed order."""
    start = SCRIPTS / f"{entry}.py"
    seen, waiting = {start}, [start]
    while waiting:
        for path in _imported_files(waiting.pop()):
            if path not in seen and not _TYPES_OF_SETTINGS.search(path.as_posix()):
                seen.add(path)
                waiting.append(path)
    data = {file for path in seen for file in _data_files(path)}
    relative = sorted(path.relative_to(SCRIPTS.parent).as_posix() for path in seen - {start} | data)
    return (start.relative_to(SCRIPTS.parent).as_posix(), *relative)


@functools.cache
def source_hash(entry: str) -> str:
    """One hash of what the files of `source_files` mean: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in source_files(entry):
        digest.update(f"{name}\0{_meaning(SCRIPTS.parent / name)}\0".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _meaning(path: Path) -> str:
    """A file's hash; of Python, of its code without comments and docstrings."""
    content = _imports_and_code(path)[1].encode() if path.suffix == ".py" else path.read_bytes()
    return hashlib.sha256(content).hexdigest()
