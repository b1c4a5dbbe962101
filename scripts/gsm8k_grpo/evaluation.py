"""The one evaluation rule, for the base model and every checkpoint: greedy completions, read, graded, counted."""

import itertools
from collections.abc import Callable
from fractions import Fraction
from operator import itemgetter

from gsm8k_grpo import answers, evaluated, stats
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.errors import PipelineError

COUNTED = ("partial", "format", "strict", "flexible", "cascade")
TOLERANCE = Fraction(1, 10)  # of partial_accuracy


def grade(completion: str, gold: str, tags: Tags, extraction: str) -> dict:
    """What each reading finds in one completion, whether it is right, and whether that of `extraction` is near."""
    target = answers.gold_number(gold)
    read = dict(zip(("strict", "flexible", "cascade"), answers.readings(completion, tags), strict=True))
    return {
        **{name: answers.plain(number) for name, number in read.items()},
        **{f"{name}_correct": number == target for name, number in read.items()},
        "partial_correct": answers.within(read[extraction], target, TOLERANCE),
        "format_correct": answers.has_format(completion, tags),
    }


def rates(rows: list[dict]) -> dict:
    """Rates with 95 % Wilson intervals over the rows of `grade`, one a question."""
    return {f"{name}_accuracy": stats.rate(sum(row[f"{name}_correct"] for row in rows), len(rows)) for name in COUNTED}


def metrics(rows: list[dict], extraction: str) -> dict:
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
        **{f"{name}_accuracy": rate(itemgetter(f"{name}_correct")) for name in COUNTED},
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
        found |= {"pass_at_k": rate(itemgetter(judged), samples), "maj_at_k": stats.rate(right, len(prompts))}
    return found


def best(evaluated: list[dict]) -> dict:
    """The checkpoint that dev rows prefer: the highest answer accuracy; of equals, the one trained least.

    Its accuracy on those rows is flattered by the choice; test, which had no part in it, says what it is worth.

    Args:
      evaluated: contents of metrics.json on one split, base first; the base model is no candidate.

    Returns:
      `checkpoint`, `step`, `split`, `extraction`, `answer_accuracy` of the chosen one, and `candidates`, the same of
      all.

    Raises:
      PipelineError: not all on the same split and number of rows, or none but the base model.
    """
    if len({(each["split"], each["answer_accuracy"]["n"]) for each in evaluated}) > 1:
        raise PipelineError(
            "the checkpoints were not evaluated on the same rows; evaluate them again (--forcerun evaluate)"
        )
    keys = ("checkpoint", "step", "answer_accuracy")
    candidates = [{key: each[key] for key in keys} for each in evaluated if each["checkpoint"] != "base"]
    if not candidates:
        raise PipelineError("no checkpoint to choose among, only the base model; give the metrics.json of all")
    chosen = max(candidates, key=lambda each: (each["answer_accuracy"]["value"], -each["step"]))
    return {
        **chosen,
        "split": evaluated[0]["split"],
        "extraction": evaluated[0]["extraction"],
        "candidates": candidates,
    }


def over_seeds(measured: dict[str, dict[str, dict]]) -> dict:
    """Rates of one recipe over its seeds.

    Args:
      measured: for each run, the contents of metrics.json of `base`, `best` and `final`.

    Returns:
      `runs`; for each of the three, every rate as `stats.over_seeds` of its values; and the same of the differences
      within a run under `final - base` and `best - base`. What varies is the training alone: rows and base do not.
    """
    names = [f"{name}_accuracy" for name in ("answer", *COUNTED)] + ["truncated_rate"]

    def summary(value: Callable[[dict, str], float], lowest: float = 0.0) -> dict:
        found = {name: stats.over_seeds([value(run, name) for run in measured.values()]) for name in names}
        for over in found.values():  # Student's t knows no bounds, shares do
            if over["low"] is not None:
                over |= {"low": max(lowest, over["low"]), "high": min(1.0, over["high"])}
        return found

    return {
        "runs": list(measured),
        **{
            checkpoint: summary(lambda run, name, checkpoint=checkpoint: run[checkpoint][name]["value"])
            for checkpoint in evaluated.NAMES
        },
        **{
            f"{checkpoint} - base": summary(
                lambda run, name, checkpoint=checkpoint: run[checkpoint][name]["value"] - run["base"][name]["value"],
                lowest=-1.0,
            )
            for checkpoint in ("best", "final")
        },
    }


def format_check(completions: list[str], tags: Tags) -> dict:
    """Whether a base model writes the recipe's format at all, before it is trained to.

    Returns:
      `tags` (for each of the four, the rate of completions that have it exactly once), `exact` (the rate of exact
      format), each as `stats.rate`; `warning`, a sentence where the format never occurs, else None.
    """
    n = len(completions)
    found = {tag: stats.rate(sum(text.count(tag) == 1 for text in completions), n) for tag in tags.all()}
    exact = stats.rate(sum(answers.has_format(text, tags) for text in completions), n)
    never = [tag for tag, rate in found.items() if not rate["value"]]
    warning = None
    if exact["value"] == 0:
        seen = f"never wrote {', '.join(never)}" if never else "wrote each tag, never all four in order"
        warning = (
            f"format check: in {n} completions the base model {seen}. GRPO only makes likelier what is sampled: a "
            "format that never occurs earns no reward and is not learned, unless a reward for single tags leads there. "
            "Say the format in prompt.system more plainly, with an example, or start from a model that follows it"
        )
    return {"tags": found, "exact": exact, "warning": warning}
