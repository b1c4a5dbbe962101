"""Reading and writing artifacts: atomic writes, rows with their line numbers in errors, content hashes."""

import codecs
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gsm8k_grpo.common.errors import PipelineError


@contextlib.contextmanager
def naming(path: str | Path):
    """Gives the errors of a full disk, which know no name, that of the file which is being written."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a whole file or nothing: a temporary file beside it, flushed to disk, then renamed over it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with naming(path), os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        # mkstemp makes files private; artifacts are for everyone whom the user's umask admits.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN and infinity are refused, as JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes one JSON object a line, atomically."""
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
    write_text(path, "".join(encoder.encode(row) + "\n" for row in rows))


def read_json(path: str | Path) -> Any:
    """Reads one JSON artifact of this pipeline; a missing or torn one is an error that names it."""
    return _parse(path, 1, _read_bytes(path))


def read_json_object(path: str | Path) -> dict:
    """Reads a JSON file of others that has to be an object; anything else is an error that names it."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise PipelineError(f"{path}: expected a JSON object, found {type(found).__name__}; fetch or write it again")
    return found


def read_jsonl(path: str | Path, keys: Iterable[str] = ()) -> list[dict]:
    """Reads JSON objects, one a line.

    Args:
      path: the file.
      keys: what each row must have.

    Raises:
      PipelineError: naming file and line, for bytes that are not UTF-8, a line that is not a JSON object (a
        truncated download, most often), a missing key, or a file without rows.
    """
    keys = tuple(keys)
    rows = []
    for number, line in enumerate(_read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        row = _parse(path, number, line)
        if not isinstance(row, dict):
            raise PipelineError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        missing = [key for key in keys if key not in row]
        if missing:
            raise PipelineError(
                f"{path}, line {number}: no key {missing[0]!r} (found {', '.join(sorted(row)) or 'none'}); "
                f"each row needs {', '.join(keys)}"
            )
        rows.append(row)
    if not rows:
        raise PipelineError(f"{path}: no rows; expected one JSON object a line")
    return rows


def _read_bytes(path: str | Path) -> bytes:
    try:
        # Windows begins files with a mark that JSON does not know.
        return Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise PipelineError(f"{path}: is a folder, expected a file") from None
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror})") from None


class _RepeatedKey(ValueError):
    pass


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object's keys and values; Python's own reader would keep the last value of a key in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


def _parse(path: str | Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_without_repetition)
    except _RepeatedKey as error:
        raise PipelineError(f"{path}, line {number}: an object has the key {str(error)!r} twice; remove one") from None
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8 again"
        ) from None
    except json.JSONDecodeError as error:
        raise PipelineError(
            f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}); "
            "is the file cut short? fetch or write it again"
        ) from None
    except (RecursionError, ValueError):
        raise PipelineError(
            f"{path}, line {number}: not valid JSON (nested too deeply, or too long a number)"
        ) from None


def sha256_text(text: str) -> str:
    """The hexadecimal SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: str | Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_tree(folder: str | Path) -> str:
    """One hash over the relative names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """The same text for equal values: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
