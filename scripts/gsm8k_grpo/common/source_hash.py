"""Which code a stage runs, as one hash: its script, every module of this library that it imports, and their data files.

The rules take the hash as a parameter, so that a stage reruns when code that it runs changes its meaning. Comments,
docstrings and file times do not count.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path

from gsm8k_grpo.common.layout import ROOT

SCRIPTS = ROOT / "scripts"
PACKAGE = "gsm8k_grpo"
# How a module names the templates or the schema that it reads: both forms name a file or folder beside the module.
_DATA = re.compile(r'Path\(__file__\)\.(?:parent / |with_name\()"([^"]+)"')

# The types of settings decide whether a stage starts, not what it computes: a new setting or limit reruns nothing.
_TYPES_OF_SETTINGS = re.compile(r"/config/(schema|blocks_\w+)\.py$")


def _imports_and_code(content: bytes) -> tuple[list[str], str]:
    """What a Python file imports of the library, anywhere in it, and its code without comments and docstrings."""
    tree = ast.parse(content)
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
    return [name for name in found if name.split(".")[0] == PACKAGE], ast.unparse(tree)


@functools.cache
def _imports_and_meaning(path: Path) -> tuple[list[str], str]:
    """What one Python file imports of the library, and the hash of its code without comments and docstrings.

    They are kept beside the file's bytecode: reading the whole library takes longer than all else that Snakemake does
    before its first job. They count for these contents of the file and of this one, if they are undamaged.
    """
    content = path.read_bytes()
    kept = Path(importlib.util.cache_from_source(str(path))).with_suffix(".meaning")
    key = _sha256(content + Path(__file__).read_bytes())
    try:
        of, seal, text = kept.read_text(encoding="utf-8").split("\n")
        if (of, seal) == (key, _sha256(text.encode())):
            return tuple(json.loads(text))
    except (OSError, ValueError):
        pass
    imports, code = _imports_and_code(content)
    text = json.dumps([imports, _sha256(code.encode())])
    with contextlib.suppress(OSError):  # in a folder that cannot be written to, nothing is kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_text(f"{key}\n{_sha256(text.encode())}\n{text}", encoding="utf-8")
        unfinished.replace(kept)
    return tuple(json.loads(text))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _imported_files(path: Path) -> list[Path]:
    """The library's modules that one source file imports."""
    modules = [SCRIPTS.joinpath(*name.split(".")) for name in _imports_and_meaning(path)[0]]
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
    return _imports_and_meaning(path)[1] if path.suffix == ".py" else _sha256(path.read_bytes())
