"""Completions from anywhere (this pipeline, vLLM, TRL, an API) matched to gold answers by id, and graded."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

SHOWN_IDS = 5  # in an error; the others are counted


def read_completions(path: str | Path) -> dict[str, dict]:
    """Rows with `id` and `completion` by the text of their ids, in the file's order.

    Raises:
      PipelineError: naming file and row, for what is no text, and for ids that occur twice.
    """
    rows = _rows_by_id(path, ("id", "completion"))
    for number, (identity, row) in enumerate(rows.items(), start=1):
        if not isinstance(row["completion"], str):
            raise PipelineError(
                f"{path}, row {number} (id {identity!r}): 'completion' is {type(row['completion']).__name__}, expected "
                "text; where the model wrote nothing, make it an empty text"
            )
    return rows


def read_golds(path: str | Path) -> dict[str, str]:
    """Gold answers as plain numbers by the text of their ids.

    Args:
      path: rows with `id` and `answer`: a number, or GSM8K's published solution that ends in `#### NUMBER`.

    Raises:
      PipelineError: naming file and row, for an answer that is not one number, and for ids that occur twice.
    """
    golds = {}
    for number, (identity, row) in enumerate(_rows_by_id(path, ("id", "answer")).items(), start=1):
        # JSON's true is a number to Python. The text of a float is the decimal that the file has.
        answer = str(row["answer"]) if type(row["answer"]) in (str, int, float) else ""
        final = answer.rpartition("####")[2].strip()
        value = gsm8k.parse_gold(final)
        if value is None:
            shown = final[:40] if final else row["answer"]
            raise PipelineError(
                f"{path}, row {number} (id {identity!r}): 'answer' is {shown!r}, expected one number such as 18, or "
                "GSM8K's solution that ends in '#### 18'"
            )
        golds[identity] = answers.plain(value)
    return golds


def require_matches(completions: Mapping, golds: Mapping, where: tuple[Path, Path], subset: bool) -> None:
    """Makes sure that each completion has a gold answer and, unless only a subset is graded, the other way round.

    Args:
      completions: by id.
      golds: by id.
      where: the files of both, for errors.
      subset: whether gold answers may be left over.

    Raises:
      PipelineError: naming ids that have no counterpart.
    """
    if unknown := [identity for identity in completions if identity not in golds]:
        raise PipelineError(
            f"{where[0]}: {_list_ids(unknown)} of no row in {where[1]}, whose ids are such as {next(iter(golds))!r}; "
            "give both files the same ids"
        )
    missing = [identity for identity in golds if identity not in completions]
    if missing and not subset:
        raise PipelineError(
            f"{where[0]}: no completion for {_list_ids(missing)} in {where[1]}; a rate over fewer rows is another rate: "
            "complete them too, or grade those that are there with --subset"
        )


def grade_all(completions: dict[str, dict], golds: dict[str, str], tags: Tags) -> list[dict]:
    """`id` and what `evaluation.grade` says, for each completion."""
    return [
        {"id": row["id"], **grade_completion(row["completion"], golds[identity], tags, "strict")}
        for identity, row in completions.items()
    ]


def _rows_by_id(path: str | Path, keys: tuple[str, str]) -> dict[str, dict]:
    """Rows by the text of their ids, as one program writes 7 where another writes "7"."""
    rows = files.read_jsonl(path, keys)
    for number, row in enumerate(rows, start=1):
        if type(row["id"]) not in (str, int):
            kind = type(row["id"]).__name__
            raise PipelineError(f"{path}, row {number}: 'id' is {kind}, expected text or a whole number")
        if isinstance(row["id"], str) and gsm8k.LONE_SURROGATE.search(row["id"]):
            raise PipelineError(f"{path}, row {number}: 'id' has half of a character (a lone surrogate); mend it")
    found = {str(row["id"]): row for row in rows}
    if len(found) < len(rows):
        twice = [identity for identity, count in Counter(str(row["id"]) for row in rows).items() if count > 1]
        raise PipelineError(
            f"{path}: several rows have the same id: {_list_ids(twice)}; expected one row an id (several samples of "
            "one prompt: one file for each)"
        )
    return found


def _list_ids(ids: list[str]) -> str:
    """A handful of ids, and how many there are beside them."""
    shown = ", ".join(repr(identity[:80]) for identity in ids[:SHOWN_IDS])
    left = len(ids) - SHOWN_IDS
    return f"id{'s' if len(ids) > 1 else ''} {shown}{f' and {left:,} more' if left > 0 else ''}"
