"""Grading one completion."""

from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

TOLERANCE = Fraction(1, 10)  # of partial_accuracy


def grade_completion(completion: str, gold: str, tags: Tags, extraction: str) -> dict:
    """What each reading finds in one completion, whether it is right, and whether that of `extraction` is near."""
    target = answers.gold_number(gold)
    read = dict(zip(("strict", "flexible", "cascade"), answers.readings(completion, tags), strict=True))
    return {
        **{name: answers.plain(number) for name, number in read.items()},
        **{f"{name}_correct": number == target for name, number in read.items()},
        "partial_correct": answers.within(read[extraction], target, TOLERANCE),
        "format_correct": answers.has_format(completion, tags),
    }
