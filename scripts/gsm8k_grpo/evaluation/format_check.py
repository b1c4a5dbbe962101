"""Whether the base model writes the recipe's format at all."""

from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags


def summarise_format(completions: list[str], tags: Tags) -> dict:
    """Whether a base model writes the recipe's format at all, before it is trained to.

    Returns:
      `tags` (for each of the four, the rate of completions that have it exactly once), `exact` (the rate of exact
      format), each as `stats.rate`; `warning`, a sentence where the format never occurs, else None.
    """
    n = len(completions)
    found = {tag: stats.wilson_rate(sum(text.count(tag) == 1 for text in completions), n) for tag in tags.all()}
    exact = stats.wilson_rate(sum(answers.has_format(text, tags) for text in completions), n)
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
