"""The rows of one set of `evaluation.transfer`, normalised like those of every other data set, and their origin."""

import math
import random
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import github_file, gsm8k, hubs
from gsm8k_grpo.data.tables import read_table
from gsm8k_grpo.data.transfer_sets import NO_NUMBER, PUBLISHED_SETS, RawRow, name_of
from gsm8k_grpo.rewards import answers


def load_transfer_set(transfer_set: Mapping) -> tuple[list[dict], dict]:
    """A set's normalised rows and where they come from.

    Args:
      transfer_set: an item of `evaluation.transfer`.

    Returns:
      the rows (as `gsm8k.normalise`, and `cluster` where the set has one; the `answer` of a row that no number answers
      is None), as many as the settings ask for, and the facts that dataset.json records: `source`, where that is,
      `sha256` of the file, `as_published` (whether it is the file that the project knows by this name; null where it
      knows none), `licence`, and `without_number` (ids of the rows that no number answers).

    Raises:
      PipelineError: names the set, the file and the row.
    """
    published = PUBLISHED_SETS.get(transfer_set["name"])
    with tempfile.TemporaryDirectory() as folder:
        path, origin = _find_file(transfer_set, Path(folder))
        content = path.read_bytes()
        raw = [_convert(transfer_set, row, f"{path}, row {index}") for index, row in enumerate(read_table(path), 1)]
    known = published and github_file.hash_like(published.checksum, content) == published.checksum
    origin |= {"sha256": {path.name: github_file.hash_like("", content)}, "as_published": known}
    if published:
        origin["licence"] = published.licence
    name = transfer_set["name"]
    rows = [
        _normalise(row, f"{name}-{index:05d}", f"{path.name} of {name}, row {index + 1}")
        for index, row in enumerate(raw)
    ]
    if all(row["answer"] is None for row in rows):
        raise PipelineError(f"{path.name} of {name}: no row has a number as its answer; name another")
    drawn = _drawn(rows, transfer_set)
    return drawn, origin | {"without_number": [row["id"] for row in drawn if row["answer"] is None]}


def _find_file(transfer_set: Mapping, folder: Path) -> tuple[Path, dict]:
    """The set's file and its origin: on this machine, on Hugging Face, or downloaded from GitHub to `folder`."""
    name, path, handle = (transfer_set[key] for key in ("name", "path", "handle"))
    if handle:
        fetched, origin = hubs.fetch("huggingface", "dataset", handle, transfer_set["revision"], (path,))
        return fetched / path, {key: origin[key] for key in ("source", "handle", "commit")}
    if path:
        require_local_file(name, Path(path))
        return Path(path), {"source": "file", "path": path}
    chosen = PUBLISHED_SETS[name]
    target = folder / Path(chosen.path).name
    remedy = f"name a copy of it on this machine: evaluation.transfer: [{{name: {name}, path: FILE}}]"
    github_file.fetch(chosen.repository, chosen.commit, chosen.path, chosen.checksum, target, remedy)
    return target, {"source": "github", "repository": chosen.repository, "commit": chosen.commit, "path": chosen.path}


def require_local_file(name: str, path: Path) -> None:
    """Refuses a set's file on this machine that is not there."""
    if not path.is_file():
        raise PipelineError(f"evaluation.transfer: {name}: {path} is no file; correct its path")


def _convert(transfer_set: Mapping, row: Mapping, where: str) -> RawRow:
    """A row of the file by the set's own columns, or by those that the settings name."""
    name, published = transfer_set["name"], PUBLISHED_SETS.get(transfer_set["name"])
    try:
        if published and not transfer_set["question"]:
            return published.convert(row)
        found = {"question": row[transfer_set["question"] or "question"]}
        found |= {"answer": row[transfer_set["answer"] or "answer"]}
        if isinstance(found["answer"], str):  # GSM8K's own are solutions that end in their number
            solution, _, final = found["answer"].rpartition("####")
            found |= {"answer": final.strip(), "solution": solution.rstrip()}
        return found | {key: name_of(row, column) for key in ("group", "cluster") if (column := transfer_set[key])}
    except ValueError as fault:
        raise PipelineError(f"{where}: {fault}; correct or remove the row") from None
    except KeyError as missing:
        raise PipelineError(
            f"{where}: no column {missing} (found {', '.join(map(str, row))}); evaluation.transfer can name the "
            f"columns: {{name: {name}, question: COLUMN, answer: COLUMN}}"
        ) from None


def _normalise(row: RawRow, row_id: str, where: str) -> dict:
    """A row as `gsm8k.normalise` makes it, and its cluster."""
    solution, without_number = row.get("solution") or "", row["answer"] is NO_NUMBER
    # `normalise` wants a number: 0 stands for none, so that the other parts of the row are checked.
    number = "0" if without_number else _number_text(row["answer"])
    if gsm8k.parse_gold(number) is None:
        raise PipelineError(f"{where}: the answer is {number[:40]!r}, expected one number; correct or remove the row")
    if not str(row["question"]).strip():
        raise PipelineError(f"{where}: the question is empty; write it, or remove the row")
    published = {"question": row["question"], "answer": f"{solution}\n#### {number}"}
    normal = gsm8k.normalise({**published, **gsm8k.group_of(row)}, row_id, where)
    cluster = {"cluster": row["cluster"]} if "cluster" in row else {}
    return normal | cluster | ({"answer": None} if without_number else {})


def _number_text(value: object) -> str:
    """An answer as text; JSON's 51.0 is 51, since a form that nobody wrote is not the data set's own."""
    is_number = isinstance(value, float) and math.isfinite(value)
    return answers.plain(Fraction(str(value))) if is_number else str(value)


def _drawn(rows: list[dict], transfer_set: Mapping) -> list[dict]:
    """As many of the rows with a number as the settings ask for, and the same share of those without.

    They are drawn by the seed, and stand in the order of the file.
    """
    wanted = transfer_set["rows"]
    if not wanted:
        return rows
    scored = [index for index, row in enumerate(rows) if row["answer"] is not None]
    if wanted > len(scored):
        raise PipelineError(
            f"evaluation.transfer: {transfer_set['name']}: {wanted} rows wanted, but it has {len(scored)}; lower it, "
            "or leave it out"
        )
    apart = [index for index, row in enumerate(rows) if row["answer"] is None]
    rng = random.Random(transfer_set["seed"])
    drawn = rng.sample(scored, wanted) + rng.sample(apart, round(len(apart) * wanted / len(scored)))
    return [rows[index] for index in sorted(drawn)]
