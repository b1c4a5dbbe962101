"""The one evaluation rule, for the base model and every checkpoint: greedy completions, read, graded, counted."""

from fractions import Fraction

from gsm8k_grpo import answers, stats
from gsm8k_grpo.answers import Tags

TOLERANCE = Fraction(1, 10)  # of partial_accuracy


def grade(completion: str, gold: str, tags: Tags) -> dict:
    """What each reading finds in one completion, and whether it is right."""
    target = answers.gold_number(gold)
    strict, flexible, cascade = answers.readings(completion, tags)
    return {
        "strict": answers.plain(strict),
        "flexible": answers.plain(flexible),
        "cascade": answers.plain(cascade),
        "strict_correct": strict == target,
        "flexible_correct": flexible == target,
        "cascade_correct": cascade == target,
        "partial_correct": answers.within(strict, target, TOLERANCE),
        "format_correct": answers.has_format(completion, tags),
    }


def rates(rows: list[dict]) -> dict:
    """Rates with 95 % Wilson intervals over the rows of `grade`."""
    counted = ("partial", "format", "strict", "flexible", "cascade")
    return {f"{name}_accuracy": _rate(rows, f"{name}_correct") for name in counted}


def metrics(rows: list[dict], extraction: str) -> dict:
    """Rates with 95 % Wilson intervals over the rows of one evaluation.

    Args:
      rows: graded rows (`grade` plus `truncated` and `tokens`).
      extraction: `strict`, `flexible` or `cascade`: whose answers `answer_accuracy` counts.
    """
    return {
        "answer_accuracy": _rate(rows, f"{extraction}_correct"),
        **rates(rows),
        "truncated_rate": _rate(rows, "truncated"),
        "mean_completion_tokens": sum(row["tokens"] for row in rows) / len(rows),
    }


def _rate(rows: list[dict], key: str) -> dict:
    return stats.rate(sum(bool(row[key]) for row in rows), len(rows))
