"""Published GSM8K rows (`question`, `answer` ending in `#### N`), and this pipeline's rows made from them."""

import json
import re
from fractions import Fraction

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import answers

KEYS = ("question", "answer")  # of a published row
GOLD = re.compile(rf"\$?(?:{answers.NUMBER.pattern})%?\.?")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can escape one, but UTF-8 cannot encode it
# Rows and SHA-256 of the published files: openai/grade-school-math, grade_school_math/data/{train,test}.jsonl.
PUBLISHED = {
    "train": (7473, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
    "test": (1319, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
}
# Where the hubs have GSM8K. Rows from any other handle are compared with the published ones too.
HANDLES = {"huggingface": "openai/gsm8k", "kaggle": "thedevastator/grade-school-math-8k-q-a"}
ANNOTATION = re.compile(r"<<[^<>]*>>")  # the calculator annotations, `<<48/2=24>>`


def normalise(row: dict, row_id: str, where: str) -> dict:
    """One published row as `id`, `question`, `solution`, `answer`.

    Args:
      row: `question` and `answer`, whose last line is `#### N`. `group` is optional: it names a part of the data set
        that gets rates of its own.
      row_id: the new row's id.
      where: file and row, for the error.

    Returns:
      `solution` is the published text before `####`, with its annotations; `answer` is a plain number as text
      (`1000`, not `1,000`). Where the row writes the number in another way, `answer_as_published` has it (`1,000`).
      `group` is there only if `row` has it.

    Raises:
      PipelineError: a value that is not text, an empty group, no `####`, or no number after it.
    """
    group = group_of(row)
    for key in (*KEYS, *group):
        if not isinstance(row[key], str):
            raise PipelineError(f"{where}: {key!r} is {type(row[key]).__name__}, expected text")
        if LONE_SURROGATE.search(row[key]):
            raise PipelineError(
                f"{where}: {key!r} contains half of a character (a lone surrogate); correct or remove the row"
            )
    if group and not row["group"].strip():
        raise PipelineError(f"{where}: 'group' is empty; name the row's group, or leave out the key")
    solution, mark, final = row["answer"].rpartition("####")
    if not mark:
        raise PipelineError(f"{where}: 'answer' has no '####'; GSM8K's rows end in '#### NUMBER'")
    value = parse_gold(final)
    if value is None:
        raise PipelineError(
            f"{where}: {final.strip()[:40]!r} after '####' is not one number; correct or remove the row"
        )
    normal = {"id": row_id, "question": row["question"], "solution": solution.rstrip(), "answer": answers.plain(value)}
    if final.strip() != normal["answer"]:
        normal["answer_as_published"] = final.strip()
    return normal | group


def group_of(row: dict) -> dict[str, str]:
    """`group` and its name if the row has one, else nothing: what a row made from this one takes over."""
    return {"group": row["group"]} if "group" in row else {}


def normalise_rows(rows: list[dict], split: str, where: str) -> list[dict]:
    """Published rows, normalised in their order; ids are `SPLIT-00000`."""
    return [normalise(row, f"{split}-{index:05d}", f"{where}, row {index + 1}") for index, row in enumerate(rows)]


def parse_gold(text: str) -> Fraction | None:
    """The number that a text states, white space apart, or None. Unlike a model's answer, gold is read strictly."""
    text = text.strip()
    if text.isdecimal() and len(text) <= answers.MAX_DIGITS:  # the usual case, ten times as fast
        return Fraction(int(text))
    return answers.parse_number(text) if GOLD.fullmatch(text) else None


def published_text(rows: list[dict]) -> str:
    """Raw rows in the layout of the published file; the published rows give the same bytes."""
    return "".join(json.dumps({key: row[key] for key in KEYS}) + "\n" for row in rows)


def published_hashes() -> dict[str, str]:
    """The SHA-256 of each published file, by its name."""
    return {f"{split}.jsonl": sha256 for split, (_, sha256) in PUBLISHED.items()}


def is_published(rows: list[dict], split: str) -> bool:
    """Whether raw rows are those of a published file, in its order. The line ends of their own file do not matter."""
    return files.sha256_text(published_text(rows)) == PUBLISHED[split][1]


def check_published(rows: list[dict], split: str, where: str) -> None:
    """Refuses raw rows that are not those of a published file, in its order; `where` names their source."""
    size, sha256 = PUBLISHED[split]
    if len(rows) != size:
        raise PipelineError(f"{where}: {len(rows):,} rows, GSM8K's {split} has {size:,}; take another source")
    found = files.sha256_text(published_text(rows))
    if found != sha256:
        raise PipelineError(
            f"{where}: these are not GSM8K's {split} rows as published, in their order (sha256 {found[:12]}…, not "
            f"{sha256[:12]}…); take another source"
        )


def strip_annotations(solution: str) -> str:
    """A solution's text without its calculator annotations: what a model is shown as reasoning."""
    return ANNOTATION.sub("", solution).strip()
