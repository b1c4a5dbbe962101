"""The rewards of a recipe, computed by their names."""

from collections.abc import Sequence

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.rewards import answers, custom, published
from gsm8k_grpo.rewards.answers import Tags

REWARDS: dict[str, published.Reward] = {
    reward.__name__: reward
    for reward in (
        *(
            published.format_exact,
            published.format_approximate,
            published.answer,
            published.number,
            published.number_boxed,
        ),
        *(
            published.weighted_format,
            published.weighted_logic,
            published.weighted_accuracy,
            published.self_correction,
            published.fitting_length,
        ),
        published.minigrpo,
    )
}


def score(names: Sequence[str], rows: list[dict], completions: list[str], tags: Tags) -> dict[str, list[float]]:
    """Each named reward of each completion.

    Args:
      names: keys of `PUBLISHED`, and names of functions of the user's own (`own_rewards`).
      rows: the row of each of the B completions, with `id`, `prompt` and `answer` (the gold answer, a plain number).
      completions: B texts.

    Returns:
      a reward's name (of a function of the user's own, the function's) → B finite floats.

    Raises:
      PipelineError: a name that is no reward, or a fault of a function of the user's own.
    """
    unknown = [name for name in names if name not in REWARDS and not custom.is_custom(name)]
    if unknown:
        raise PipelineError(f"training.rewards: no reward {unknown[0]!r}; there are {', '.join(REWARDS)}")
    golds = [answers.gold_number(row["answer"]) for row in rows]
    scores = {}
    for name in names:
        if custom.is_custom(name):
            scores[custom.column_label(name)] = custom.score_custom(name, rows, completions, ROOT)
        else:
            reward = REWARDS[name]
            scores[name] = [reward(text, gold, tags) for text, gold in zip(completions, golds, strict=True)]
    return scores
