"""How often the base model writes the recipe's format."""

from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

EXAMPLES = 4  # the number of completions to read


def summarise_format(ids: list[str], completions: list[str], tags: Tags, warm_start: bool) -> dict:
    """How often completions of the base model have the recipe's tags and its whole format.

    Returns:
      `tags` (for each of the four the rate of completions that have it exactly once), `exact` (the rate of the exact
      format), each as `stats.wilson_rate`, `warning`: a sentence if the format never occurs and no warm start teaches
      it, else None, and `examples`: the first completions with their rows' ids.
    """
    n = len(completions)
    found = {tag: stats.wilson_rate(sum(text.count(tag) == 1 for text in completions), n) for tag in tags.all()}
    exact = stats.wilson_rate(sum(answers.has_format(text, tags) for text in completions), n)
    never = [tag for tag, rate in found.items() if not rate["value"]]
    warning = None
    if exact["value"] == 0 and not warm_start:
        whole = "wrote each tag, but never all four in order around reasoning and a number"
        seen = f"never wrote {', '.join(never)}" if never else whole
        warning = (
            f"format check: in {n} completions the base model {seen}. GRPO only makes sampled completions more likely: "
            "a format that never occurs earns no reward and is not learned, unless a reward for single tags leads to "
            "it. Describe the format more plainly in prompt.system, with an example, teach it first with "
            "training.warm_start_steps, or start from a model that follows it"
        )
    shown = zip(ids[:EXAMPLES], completions[:EXAMPLES], strict=True)
    examples = [{"id": row_id, "completion": completion} for row_id, completion in shown]
    return {"tags": found, "exact": exact, "warning": warning, "examples": examples}
