"""GSM8K rows as published (`question`, `answer` ending in `#### N`) made into this pipeline's rows."""

import json
import re
from fractions import Fraction
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import answers

GOLD = re.compile(rf"\$?(?:{answers.NUMBER.pattern})%?\.?")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # valid in JSON as an escape, but no text that can be written again
# Rows and SHA-256 of the published files: openai/grade-school-math, grade_school_math/data/{train,test}.jsonl.
PUBLISHED = {
    "train": (7473, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
    "test": (1319, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
}
# GSM8K where a hub has it; whatever other handle is given, its rows are checked against the published ones.
HANDLES = {"huggingface": "openai/gsm8k", "kaggle": "thedevastator/grade-school-math-8k-q-a"}
ANNOTATION = re.compile(r"<<[^<>]*>>")  # the calculator annotations, `<<48/2=24>>`


def normalise(row: dict, row_id: str, origin: str) -> dict:
    """One published row as `id`, `question`, `solution`, `answer`.

    Args:
      row: `question` and `answer`, where the answer's last line is `#### N`.
      row_id: the id to give it.
      origin: file and line, for the error.

    Returns:
      `solution` is the published text before `####`, annotations included; `answer` is a plain number as text
      (`1000`, not `1,000`).

    Raises:
      PipelineError: no `####`, or no number after it.
    """
    for key in ("question", "answer"):
        if not isinstance(row[key], str):
            raise PipelineError(f"{origin}: {key!r} is {type(row[key]).__name__}, expected text")
        if LONE_SURROGATE.search(row[key]):
            raise PipelineError(f"{origin}: {key!r} has half of a character (a lone surrogate); mend or drop the row")
    solution, mark, final = row["answer"].rpartition("####")
    if not mark:
        raise PipelineError(f"{origin}: 'answer' has no '####'; GSM8K's rows end in '#### NUMBER'")
    value = parse_gold(final)
    if value is None:
        raise PipelineError(f"{origin}: {final.strip()[:40]!r} after '####' is not one number")
    return {"id": row_id, "question": row["question"], "solution": solution.rstrip(), "answer": answers.plain(value)}


def parse_gold(text: str) -> Fraction | None:
    """The number that a text is, white space apart, or None: a model's answer is read leniently, gold never."""
    text = text.strip()
    if text.isdecimal() and len(text) <= answers.MAX_DIGITS:  # nearly all are, and this takes a tenth of the time
        return Fraction(int(text))
    return answers.parse_number(text) if GOLD.fullmatch(text) else None


def read(path: str | Path, split: str) -> list[dict]:
    """Reads and normalises one published jsonl; ids are `SPLIT-00000`, in the file's order."""
    rows = files.read_jsonl(path, keys=("question", "answer"))
    return [normalise(row, f"{split}-{index:05d}", f"{path}, row {index + 1}") for index, row in enumerate(rows)]


def published_text(rows: list[dict]) -> str:
    """Raw rows (`question`, `answer`) as the published file has them; of the published rows, the same bytes."""
    return "".join(json.dumps({key: row[key] for key in ("question", "answer")}) + "\n" for row in rows)


def is_published(rows: list[dict], split: str) -> bool:
    """Whether raw rows are those of a published file, in its order, however their file ends its lines."""
    return files.sha256_text(published_text(rows)) == PUBLISHED[split][1]


def check_published(rows: list[dict], split: str, origin: str) -> None:
    """Makes sure that raw rows are those of a published file, in its order.

    Args:
      rows: raw rows.
      split: `train` or `test`.
      origin: where they come from, for the error.
    """
    size, sha256 = PUBLISHED[split]
    if len(rows) != size:
        raise PipelineError(f"{origin}: {len(rows):,} rows, GSM8K's {split} has {size:,}; take another source")
    found = files.sha256_text(published_text(rows))
    if found != sha256:
        raise PipelineError(
            f"{origin}: these are not GSM8K's {split} rows as published, in their order (sha256 {found[:12]}…, not "
            f"{sha256[:12]}…); take another source"
        )


def strip_annotations(solution: str) -> str:
    """A solution's text without its calculator annotations: what a model is shown as reasoning."""
    return ANNOTATION.sub("", solution).strip()
