"""The one registry of rewards, by name.

The rewards are in the files beside this one; scoring.py lists these files. Each docstring begins with a sentence that
names the source, states the range (`Range A … B.`) and has a table of cases, with the tags as <r>, </r>, <a> and </a>.
Tests and docs/rewards.md are made from them.
"""

from collections.abc import Callable
from fractions import Fraction

from gsm8k_grpo.rewards.answers import Tags

Reward = Callable[[str, Fraction, Tags], float]

REWARDS: dict[str, Reward] = {}


def reward(function: Reward) -> Reward:
    """Registers a reward by its function's name."""
    REWARDS[function.__name__] = function
    return function
