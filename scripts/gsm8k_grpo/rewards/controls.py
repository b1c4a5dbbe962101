"""Controls of a result: rewards that know less than the recipe's. A gain that they reach too needs no right answers.

The run of a control differs from the recipe's in its rewards alone (`training_rewards`). All that a control draws
derives from the run's seed, so a resumed run has the same rewards.
"""

from collections.abc import Sequence

import numpy as np

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import answers, custom

# Each control, and what the page says that it rewards by.
CONTROLS = {
    "format_only": "rewards that do not look at the gold answer",
    "shuffled_gold": "the gold answers of other rows",
    "random": "the toss of a coin",
}
# The rewards that give the same number whatever the gold answer is. tests/rewards/test_rewards.py checks the list.
GOLD_BLIND = (
    *("format_exact", "format_approximate", "weighted_format", "weighted_logic", "fitting_length"),
    *("published_format_exact", "published_weighted_format", "published_weighted_logic"),
    *("published_self_correction", "published_length"),
)
# The last word of a seed of NumPy: no two kinds of draws share a stream. (`row_order` has three words; a 0 would not
# tell the two apart.)
_COIN, _SHUFFLE = 1, 2


def gold_blind(rewards: Sequence[str]) -> list[str]:
    """Those of the named rewards that do not look at the gold answer."""
    return [name for name in rewards if name in GOLD_BLIND]


def format_only_fault(rewards: Sequence[str]) -> str | None:
    """Why a recipe with these rewards cannot have the control `format_only`; None if it can."""
    own = next(filter(custom.is_custom, rewards), None)
    if own:
        return (
            f"format_only cannot know whether {own} looks at the gold answers that it gets; leave format_only out, or "
            "train with the rewards of the format alone as training.rewards"
        )
    if not gold_blind(rewards):
        return (
            f"format_only keeps the rewards that do not look at the gold answer, and there is none among "
            f"{', '.join(rewards)}; leave format_only out"
        )
    return None


def shuffled_golds(rows: Sequence[dict], seed: int) -> dict[str, dict[str, str]]:
    """The gold answer of another row (its `GOLD_KEYS`) by each row's `id`: one cycle through all rows, drawn from the
    run's seed.

    No row keeps its own answer, and each answer is given once. By chance, the other row may have an equal number. We
    keep these: without them, every answer but the right one could earn the reward, which tells what is right.

    Args:
      rows: all rows to train on, with `id` and `answer`.
      seed: the run's seed.

    Raises:
      PipelineError: there is only one row.
    """
    if len(rows) < 2:
        raise PipelineError("training.control: shuffled_gold needs two rows or more to train on, found one; add rows")
    cycle = np.random.default_rng((seed, 0, 0, _SHUFFLE)).permutation(len(rows))
    return {
        rows[index]["id"]: {key: rows[other][key] for key in answers.GOLD_KEYS if key in rows[other]}
        for index, other in zip(cycle, np.roll(cycle, 1), strict=True)
    }


def random_rewards(seed: int, step: int, draw: int, completions: int) -> list[float]:
    """1 or 0 for each completion, each with probability 1/2, independently of all else.

    These are the random rewards of "Spurious Rewards" (Shao et al. 2025, arXiv 2506.10947). A completion's reward
    depends on the four numbers that find it: the run's seed, the step, the draw within the step, its index in the draw.

    Args:
      seed, step, draw: of the run, from 0.
      completions: their number in the draw.
    """
    heads = np.random.default_rng((seed, step, draw, _COIN)).random(completions) < 0.5
    return heads.astype(float).tolist()
