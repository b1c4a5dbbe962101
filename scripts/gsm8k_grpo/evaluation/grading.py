"""Grading one completion."""

from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

PARTIAL_TOLERANCE = Fraction(1, 10)  # relative error that `partial_correct` allows


def grade_completion(completion: str, gold: str, tags: Tags, extraction: str) -> dict:
    """What each reading finds in a completion, and the verdicts. `partial_correct` judges the reading `extraction`.

    Returns:
      `strict`, `flexible` and `cascade` (a number as text, or None), `READING_correct` for each of them,
      `partial_correct` and `format_correct`.
    """
    target = answers.gold_number(gold)
    found = dict(zip(("strict", "flexible", "cascade"), answers.readings(completion, tags), strict=True))
    return {
        **{name: answers.plain(number) for name, number in found.items()},
        **{f"{name}_correct": number == target for name, number in found.items()},
        "partial_correct": answers.within(found[extraction], target, PARTIAL_TOLERANCE),
        "format_correct": answers.has_format(completion, tags),
    }
