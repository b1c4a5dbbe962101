"""Rows that carry a hash of themselves: running logs, which no artifact's hash covers, find their own damage so.

A row is a line of JSON whose last key, `sha256`, holds 16 digits of the hash of the line without it.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from gsm8k_grpo.common import files

_SEAL = re.compile(rb', "sha256": "([0-9a-f]{16})"\}\Z')


def seal(row: dict) -> str:
    """A row as a line of text with its hash. The row has a key or more."""
    text = json.dumps(row, ensure_ascii=False)
    return f'{text[:-1]}, "sha256": "{files.sha256_text(text)[:16]}"}}\n'


def write(path: Path, rows: Iterable[dict]) -> None:
    """Writes rows, atomically."""
    files.write_text(path, "".join(map(seal, rows)))


def read(path: Path) -> tuple[list[dict], list[int]]:
    """Reads what was written with `seal`.

    Returns:
      the rows that are whole, and the numbers of the lines that are damaged. A last line without its end is neither: a
      process was killed while it wrote. A file that does not exist has no rows.
    """
    rows, damaged = [], []
    if not path.exists():
        return rows, damaged
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        row = _unseal(line)
        if row is None:
            damaged.append(number)
        else:
            rows.append(row)
    return rows, damaged


def _unseal(line: bytes) -> dict | None:
    found = _SEAL.search(line)
    if not found:
        return None
    try:
        text = line[: found.start()].decode() + "}"
    except UnicodeDecodeError:
        return None
    return json.loads(text) if files.sha256_text(text)[:16] == found[1].decode() else None


def name_damage(path: Path, damaged: list[int], consequence: str) -> None:
    """Prints that lines of a file are damaged, and what follows."""
    if damaged:
        shown = ", ".join(map(str, damaged[:5])) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
        print(f"{path}, line {shown}: is damaged (its hash differs); {consequence}", flush=True)
