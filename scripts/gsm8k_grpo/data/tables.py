"""Rows of a file in any of the forms that data sets come in: JSON lines, JSON, CSV, parquet."""

import csv
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError

FORMS = (".jsonl", ".json", ".csv", ".parquet")


def read_table(path: Path) -> list[dict]:
    """The rows of a file, by its ending one of `FORMS`; values of CSV are text.

    Raises:
      PipelineError: another ending, no such file, no rows, or contents that are not of this form.
    """
    if path.suffix not in FORMS:
        raise PipelineError(f"{path}: its name ends in none of {', '.join(FORMS)}; give it the ending of its form")
    if not path.is_file():
        raise PipelineError(f"{path}: no such file")
    if path.suffix == ".jsonl":
        return files.read_jsonl(path)
    rows = {".json": files.read_json, ".csv": _read_csv, ".parquet": _read_parquet}[path.suffix](path)
    if not isinstance(rows, list) or not rows:
        raise PipelineError(f"{path}: no rows; expected a list of rows, each with its columns")
    for index, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise PipelineError(
                f"{path}, row {index}: {type(row).__name__}, expected an object with its columns; correct or remove it"
            )
    return rows


def _read_csv(path: Path) -> list[dict]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        try:
            columns, *rows = [cells for cells in reader if cells] or [[]]
        except UnicodeDecodeError:
            raise PipelineError(f"{path}: cannot be read as CSV (not UTF-8); save it as UTF-8 again") from None
        except csv.Error as error:
            raise PipelineError(
                f"{path}: cannot be read as CSV ({error}, up to line {reader.line_num}); correct the quotes there"
            ) from None
    if repeated := [name for name in columns if name and columns.count(name) > 1]:
        raise PipelineError(f"{path}: two columns are named {repeated[0]!r}; rename one")
    for index, cells in enumerate(rows, 1):
        if len(cells) != len(columns):
            raise PipelineError(
                f"{path}, row {index}: expected {len(columns)} cells, found {len(cells)}; "
                "put a text that has commas in quotes"
            )
    return [dict(zip(columns, cells, strict=True)) for cells in rows]


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: cannot be read as parquet ({type(error).__name__}); fetch it again") from None
