"""The rewards of a recipe, computed by their names."""

from collections.abc import Sequence

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.rewards import (
    answers,
    custom,
    custom_process,
    minigrpo,
    published,
    published_weighted,
    registry,
    tags_and_answer,
    weighted,
)
from gsm8k_grpo.rewards.answers import Tags

# The modules that register rewards, in the order of the documentation.
MODULES = (tags_and_answer, weighted, minigrpo, published, published_weighted)
REWARDS = {
    name: reward
    for module in MODULES
    for name, reward in registry.REWARDS.items()
    if reward.__module__ == module.__name__
}


def score(
    names: Sequence[str],
    rows: list[dict],
    completions: list[str],
    tags: Tags,
    custom_limit_seconds: float | None = None,
) -> dict[str, list[float]]:
    """Each named reward of each completion.

    Args:
      names: keys of `REWARDS`, or names of the user's own functions (see `custom`).
      rows: the row of each of the B completions, with `id`, `prompt` and `answer` (the gold answer, a plain number).
      completions: B texts.
      tags: the recipe's output format.
      custom_limit_seconds: how long a user's own function may take; None is no limit.

    Returns:
      B finite floats by the reward's name; for a user's own function, by the function's name.

    Raises:
      PipelineError: an unknown name, or a fault of a user's own function.
    """
    unknown = [name for name in names if name not in REWARDS and not custom.is_custom(name)]
    if unknown:
        raise PipelineError(f"training.rewards: no reward {unknown[0]!r}; there are {', '.join(REWARDS)}")
    golds = [answers.gold_of(row) for row in rows]
    scores = {}
    for name in names:
        if custom.is_custom(name):
            label = custom.column_label(name)
            scores[label] = custom_process.score(name, rows, completions, ROOT, custom_limit_seconds)
        else:
            reward = REWARDS[name]
            scores[name] = [reward(text, gold, tags) for text, gold in zip(completions, golds, strict=True)]
    return scores
