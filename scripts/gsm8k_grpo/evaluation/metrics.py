"""The one evaluation rule, for the base model and every checkpoint: rates over graded rows."""

import itertools
from collections.abc import Callable, Mapping
from operator import itemgetter

from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.rewards import published_cascade
from gsm8k_grpo.rewards.answers import READINGS

# Verdicts of `grading.grade_completion` that have a rate of their own, `NAME_accuracy`. Their labels are in
# report/metric_catalogue.py, so that a new label evaluates nothing again.
COUNTED_VERDICTS = (*READINGS, "partial", "format")


def accuracy_rates(rows: list[dict]) -> dict:
    """Rates with 95 % Wilson intervals over rows of `grading.grade_completion`, one a question."""
    return {
        f"{name}_accuracy": stats.wilson_rate(sum(row[f"{name}_correct"] for row in rows), len(rows))
        for name in COUNTED_VERDICTS
    }


def summarise_metrics(rows: list[dict], extraction: str) -> dict:
    """Rates with 95 % intervals over graded rows.

    With one completion a prompt, intervals are Wilson's. With k, a rate is the mean over prompts of the share of their
    k completions that count, and its interval is over prompts; pass@k and maj@k (by `extraction`) come on top.

    Args:
      rows: of completions.jsonl; the rows of a prompt stand beside each other. Those that no number answers do not
        count.
      extraction: the reading that `answer_accuracy` counts, such as `strict`.

    Returns:
      the rates of all rows; if rows have a group, also `groups`: the same for the rows of each.
    """
    rows = with_number(rows)
    groups = {name: _summarise(of_group, extraction) for name, of_group in rows_by_group(rows).items()}
    return _summarise(rows, extraction) | ({"groups": groups} if groups else {})


def with_number(rows: list[dict]) -> list[dict]:
    """The rows of completions.jsonl whose answer is a number; evaluation/transfer.py scores the others apart."""
    return [row for row in rows if row["answer"] is not None]


def rows_by_group(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each group, in their order; rows without the key `group` are in none."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        if "group" in row:
            groups.setdefault(row["group"], []).append(row)
    return groups


def _summarise(rows: list[dict], extraction: str) -> dict:
    prompts = [list(of_prompt) for _, of_prompt in itertools.groupby(rows, key=lambda row: row["id"])]
    samples = len(prompts[0])

    def rate(counts: Callable[[dict], bool], k: int = 1) -> dict:
        return stats.pass_at_k_rate([(samples, sum(map(counts, of_prompt))) for of_prompt in prompts], k)

    answered = itemgetter(f"{extraction}_correct")
    found = {
        "answer_accuracy": rate(answered),
        **{f"{name}_accuracy": rate(itemgetter(f"{name}_correct")) for name in COUNTED_VERDICTS},
        "truncated_rate": rate(lambda row: row["stop_reason"] == "limit"),
        "samples": samples,
        "mean_completion_tokens": sum(row["tokens"] for row in rows) / len(rows),
    }
    if samples > 1:
        number = published_cascade.as_number if extraction == "published_cascade" else lambda reading: reading
        votes = [stats.majority([number(row[extraction]) for row in of_prompt]) for of_prompt in prompts]
        # Of one prompt, equal readings have equal verdicts.
        right = sum(
            any(answered(row) for row in of_prompt if number(row[extraction]) == vote)
            for vote, of_prompt in zip(votes, prompts, strict=True)
        )
        found |= {"pass_at_k": rate(answered, samples), "maj_at_k": stats.wilson_rate(right, len(prompts))}
    return found


def format_rate(name: str, rate: Mapping) -> str:
    """One rate as a line of a stage's output."""
    # A single prompt with several samples has no interval.
    interval = "no interval" if rate["low"] is None else f"95 % interval {rate['low']:.1%} to {rate['high']:.1%}"
    return f"{name} {rate['value']:.1%} ({interval}, n = {rate['n']})"
