"""The one evaluation rule, for the base model and every checkpoint: greedy completions, read, graded, counted."""

from fractions import Fraction

from gsm8k_grpo import answers, stats
from gsm8k_grpo.answers import Tags

TOLERANCE = Fraction(1, 10)  # of partial_accuracy


def grade(completion: str, gold: str, tags: Tags) -> dict:
    """What each reading finds in one completion, and whether it is right."""
    target = answers.gold_number(gold)
    strict, flexible = answers.strict(completion, tags), answers.flexible(completion)
    return {
        "strict": answers.plain(strict),
        "flexible": answers.plain(flexible),
        "strict_correct": strict == target,
        "flexible_correct": flexible == target,
        "partial_correct": answers.within(strict, target, TOLERANCE),
        "format_correct": answers.has_format(completion, tags),
    }


def metrics(rows: list[dict], extraction: str) -> dict:
    """Rates with 95 % Wilson intervals over graded rows.

    Args:
      rows: graded rows (`grade` plus `tokens` and `stop_reason`).
      extraction: `strict` or `flexible`: whose answers `answer_accuracy` counts.
    """
    counted = {
        "answer_accuracy": f"{extraction}_correct",
        "partial_accuracy": "partial_correct",
        "format_accuracy": "format_correct",
        "strict_accuracy": "strict_correct",
        "flexible_accuracy": "flexible_correct",
    }
    rates = {name: stats.rate(sum(row[key] for row in rows), len(rows)) for name, key in counted.items()}
    rates["truncated_rate"] = stats.rate(sum(row["stop_reason"] == "limit" for row in rows), len(rows))
    return {**rates, "mean_completion_tokens": sum(row["tokens"] for row in rows) / len(rows)}
