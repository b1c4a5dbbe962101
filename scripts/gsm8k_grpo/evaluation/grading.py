"""Grading one completion."""

from collections.abc import Mapping
from fractions import Fraction

from gsm8k_grpo.rewards import answers, published_cascade
from gsm8k_grpo.rewards.answers import READINGS, Tags, gold_of

PARTIAL_TOLERANCE = Fraction(1, 10)  # relative error that `partial_correct` allows


def grade_completion(completion: str, gold: str, tags: Tags, extraction: str) -> dict:
    """What each reading finds in a completion, and the verdicts. `partial_correct` judges the reading `extraction`.

    Args:
      completion: a text.
      gold: the gold answer as the data set writes it, such as `1,000`.
      tags: the recipe's output format.
      extraction: the name of a reading.

    Returns:
      `strict`, `flexible` and `cascade` (a number as text, or None), `published_cascade` (a text, or None),
      `READING_correct` for each of them, `partial_correct` and `format_correct`.
    """
    target = answers.gold_number(gold)
    found = dict(zip(("strict", "flexible", "cascade"), answers.readings(completion, tags), strict=True))
    published = published_cascade.read(completion, tags)
    guess = answers.parse_number(published or "") if extraction == "published_cascade" else found[extraction]
    return {
        **{name: answers.plain(number) for name, number in found.items()},
        "published_cascade": published,
        **{f"{name}_correct": number == target for name, number in found.items()},
        "published_cascade_correct": published_cascade.is_right(published, target),
        "partial_correct": answers.within(guess, target, PARTIAL_TOLERANCE),
        "format_correct": answers.has_format(completion, tags),
    }


def grade_row(completion: str, row: Mapping, tags: Tags, extraction: str) -> dict:
    """`grade_completion` by the answer of a row, in the data set's own writing.

    Where the answer is None, no number is right: no reading is correct, and `abstained` says whether the completion
    gives none (`answers.abstains`).
    """
    if row["answer"] is not None:
        return grade_completion(completion, gold_of(row).text, tags, extraction)
    graded = grade_completion(completion, "0", tags, extraction)
    wrong = dict.fromkeys([f"{name}_correct" for name in (*READINGS, "partial")], False)
    return graded | wrong | {"abstained": answers.abstains(completion, tags)}
