"""The one evaluation rule, for the base model and every checkpoint: greedy completions, read, graded, counted."""

import itertools
from collections.abc import Callable
from operator import itemgetter

from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.rewards import answers

COUNTED_VERDICTS = ("partial", "format", "strict", "flexible", "cascade")


def accuracy_rates(rows: list[dict]) -> dict:
    """Rates with 95 % Wilson intervals over the rows of `grade`, one a question."""
    return {
        f"{name}_accuracy": stats.wilson_rate(sum(row[f"{name}_correct"] for row in rows), len(rows))
        for name in COUNTED_VERDICTS
    }


def summarise_metrics(rows: list[dict], extraction: str) -> dict:
    """Rates with 95 % intervals over graded rows.

    With one completion a prompt, Wilson intervals. With k, a rate is the mean over prompts of the share of their k that
    count, with the interval over prompts; pass@k and maj@k (by `extraction`) are given too.

    Args:
      rows: graded rows (`grade` plus `id`, `answer`, `tokens` and `stop_reason`), those of a prompt beside each other.
      extraction: `strict`, `flexible` or `cascade`: whose answers `answer_accuracy` counts.
    """
    prompts = [list(of_prompt) for _, of_prompt in itertools.groupby(rows, key=lambda row: row["id"])]
    samples = len(prompts[0])

    def rate(counts: Callable[[dict], bool], k: int = 1) -> dict:
        return stats.pass_at_k_rate([(samples, sum(map(counts, of_prompt))) for of_prompt in prompts], k)

    judged = f"{extraction}_correct"
    found = {
        "answer_accuracy": rate(itemgetter(judged)),
        **{f"{name}_accuracy": rate(itemgetter(f"{name}_correct")) for name in COUNTED_VERDICTS},
        "truncated_rate": rate(lambda row: row["stop_reason"] == "limit"),
        "samples": samples,
        "mean_completion_tokens": sum(row["tokens"] for row in rows) / len(rows),
    }
    if samples > 1:
        votes = [stats.majority([row[extraction] for row in of_prompt]) for of_prompt in prompts]
        # Readings are texts of one form (`answers.plain`), so equal numbers are equal texts.
        right = sum(
            vote == answers.plain(answers.gold_number(row[0]["answer"]))
            for vote, row in zip(votes, prompts, strict=True)
        )
        found |= {"pass_at_k": rate(itemgetter(judged), samples), "maj_at_k": stats.wilson_rate(right, len(prompts))}
    return found
