"""Completions of any program (this pipeline, vLLM, TRL, an API), matched to gold answers by id and graded."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.evaluation.metrics import accuracy_rates
from gsm8k_grpo.rewards.answers import Reasoning, Tags

ROWS, METRICS = "rows.jsonl", "metrics.json"  # written to the output folder
SHOWN_IDS = 5  # that an error lists; it counts the others


def parse_tags(tags: tuple[str, str, str, str], reasoning: tuple[int, int]) -> Tags:
    """The output format that `--tags` and `--reasoning` describe; a faulty one is an error that names the option."""
    found = Tags(*tags, Reasoning(*reasoning))
    if (tag := found.find_overlap()) is not None:
        raise PipelineError(f"--tags: {tag!r} is a part of another tag; give four tags that do not contain each other")
    if min(reasoning) < 0 or not found.reasoning.can_be_met():
        counts = " ".join(map(str, reasoning))
        raise PipelineError(f"--reasoning: is {counts}, expected two counts, such as 1 6, of which one is more than 0")
    return found


def require_files(completions: Path, answers: Path, output: Path) -> None:
    """Checks that the output cannot overwrite an input, and that the inputs can be read twice."""
    if output.exists() and not output.is_dir():
        raise PipelineError(f"--output: {output} is a file, expected a folder; name another one")
    if {(output / name).resolve() for name in (ROWS, METRICS)} & {completions.resolve(), answers.resolve()}:
        raise PipelineError(f"--output: {output} would overwrite the graded files; name another folder")
    for option, path in (("--completions", completions), ("--answers", answers)):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise PipelineError(f"{option}: {path} is a pipe or device, which cannot be read twice; give a file")


def grade_files(completions: Path, answers: Path, output: Path, tags: Tags, subset: bool) -> dict:
    """Grades a file of completions, writes rows.jsonl (verdicts) and metrics.json (rates), and returns the rates."""
    started = time.monotonic()
    found, golds = read_completions(completions), read_golds(answers)
    _require_matches(found, golds, (completions, answers), subset)
    graded = grade_all(found, golds, tags)
    rates = accuracy_rates(graded)
    files.write_jsonl(output / ROWS, graded)
    seconds = time.monotonic() - started
    metrics = {
        "completions": {"path": str(completions), "sha256": files.sha256_file(completions)},
        "answers": {"path": str(answers), "sha256": files.sha256_file(answers)},
        "tags": list(tags.all()),
        "reasoning": [tags.reasoning.calculations, tags.reasoning.words],
        "rows": len(graded),
        "rows_without_completion": len(golds) - len(graded),
        **rates,
        "seconds": round(seconds, 3),
        "completions_per_second": round(len(graded) / seconds, 1),
        "provenance": collect_provenance(),
    }
    files.write_json(output / METRICS, metrics)
    return rates


def read_completions(path: str | Path) -> dict[str, dict]:
    """Rows with `id` and `completion`, by the text of their ids, in the order of the file.

    Raises:
      PipelineError: names file and row where a completion is not text or an id occurs twice.
    """
    rows = _rows_by_id(path, ("id", "completion"))
    for number, (identity, row) in enumerate(rows.items(), start=1):
        if not isinstance(row["completion"], str):
            raise PipelineError(
                f"{path}, row {number} (id {identity!r}): 'completion' is {type(row['completion']).__name__}, expected "
                "text; write an empty text where the model wrote nothing"
            )
    return rows


def read_golds(path: str | Path) -> dict[str, str]:
    """Gold answers as they are written (`1,000`), by the text of their ids.

    Args:
      path: rows with `id` and `answer`: a number, or a published solution of GSM8K that ends in `#### NUMBER`.

    Raises:
      PipelineError: names file and row where an answer is not one number or an id occurs twice.
    """
    golds = {}
    for number, (identity, row) in enumerate(_rows_by_id(path, ("id", "answer")).items(), start=1):
        # `type` because true is an int to Python. The text of a float is the decimal in the file.
        answer = str(row["answer"]) if type(row["answer"]) in (str, int, float) else ""
        final = answer.rpartition("####")[2].strip()
        if gsm8k.parse_gold(final) is None:
            shown = final[:40] if final else row["answer"]
            raise PipelineError(
                f"{path}, row {number} (id {identity!r}): 'answer' is {shown!r}, expected one number such as 18, or "
                "a solution of GSM8K that ends in '#### 18'"
            )
        golds[identity] = final
    return golds


def _require_matches(completions: Mapping, golds: Mapping, paths: tuple[Path, Path], subset: bool) -> None:
    """Checks that each id of a completion has a gold answer and, without `subset`, each gold answer a completion."""
    if unknown := [identity for identity in completions if identity not in golds]:
        raise PipelineError(
            f"{paths[0]}: {paths[1]} has no row with {_list_ids(unknown)}, only ids such as {next(iter(golds))!r}; "
            "give both files the same ids"
        )
    missing = [identity for identity in golds if identity not in completions]
    if missing and not subset:
        raise PipelineError(
            f"{paths[0]}: has no completion for {_list_ids(missing)} of {paths[1]}; add them, or give --subset to "
            "grade fewer rows, whose rates cannot be compared with those of all"
        )


def grade_all(completions: dict[str, dict], golds: dict[str, str], tags: Tags) -> list[dict]:
    """`id` and the fields of `grade_completion`, for each completion."""
    return [
        {"id": row["id"], **grade_completion(row["completion"], golds[identity], tags, "strict")}
        for identity, row in completions.items()
    ]


def _rows_by_id(path: str | Path, keys: tuple[str, str]) -> dict[str, dict]:
    """Rows by the text of their ids: one program writes 7 where another writes "7"."""
    rows = files.read_jsonl(path, keys)
    for number, row in enumerate(rows, start=1):
        if type(row["id"]) not in (str, int):
            kind = type(row["id"]).__name__
            raise PipelineError(f"{path}, row {number}: 'id' is {kind}, expected text or a whole number; change it")
        if isinstance(row["id"], str) and gsm8k.LONE_SURROGATE.search(row["id"]):
            raise PipelineError(f"{path}, row {number}: 'id' has half a character (a lone surrogate); remove it")
    found = {str(row["id"]): row for row in rows}
    if len(found) < len(rows):
        twice = [identity for identity, count in Counter(str(row["id"]) for row in rows).items() if count > 1]
        raise PipelineError(
            f"{path}: several rows have the same id: {_list_ids(twice)}; give each row an id of its own (put several "
            "samples of one prompt into several files)"
        )
    return found


def _list_ids(ids: list[str]) -> str:
    """The first ids, and the number of the others."""
    shown = ", ".join(repr(identity[:80]) for identity in ids[:SHOWN_IDS])
    others = len(ids) - SHOWN_IDS
    return f"id{'s' if len(ids) > 1 else ''} {shown}{f' and {others:,} more' if others > 0 else ''}"
