"""The four published rewards (Tunix's GSM8K demo; Unsloth's GRPO notebook), on the shared answer parser.

Each takes one completion, the gold number and the recipe's tags and returns a float. Faults of the published versions
that are mended here: the number pattern missed `-5` and cut `1,000` to `1`; white space around a right answer halved
the reward; gold 0 was divided by inside a bare `except`; text after the answer block passed as exact format.
"""

from collections.abc import Callable
from fractions import Fraction

from gsm8k_grpo import answers
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.errors import PipelineError

Reward = Callable[[str, Fraction, Tags], float]


def format_exact(completion: str, gold: Fraction, tags: Tags) -> float:
    """3 when the whole completion is a reasoning block and then an answer block, else 0. Range 0 … 3."""
    return 3.0 if answers.has_format(completion, tags) else 0.0


def format_approximate(completion: str, gold: Fraction, tags: Tags) -> float:
    """For each of the four tags +0.5 when it occurs exactly once, else −0.5. Range −2 … 2."""
    return sum(0.5 if completion.count(tag) == 1 else -0.5 for tag in tags.all())


def answer(completion: str, gold: Fraction, tags: Tags) -> float:
    """The answer block against the gold number, given the exact format. Range −1 … 3.

    3 equal, 0.5 within ±10 %, 0.25 within ±20 %, −1 beyond, −0.5 when it states no number; 0 without the exact format.
    """
    if not answers.has_format(completion, tags):
        return 0.0
    guess = answers.strict(completion, tags)
    if guess is None:
        return -0.5
    if guess == gold:
        return 3.0
    if answers.within(guess, gold, Fraction(1, 10)):
        return 0.5
    return 0.25 if answers.within(guess, gold, Fraction(1, 5)) else -1.0


def number(completion: str, gold: Fraction, tags: Tags) -> float:
    """1.5 when the first number after the opening answer tag is the gold number, else 0. Range 0 … 1.5."""
    _, found, rest = completion.partition(tags.answer_start)
    return 1.5 if found and answers.first_number(rest) == gold else 0.0


PUBLISHED: dict[str, Reward] = {
    reward.__name__: reward for reward in (format_exact, format_approximate, answer, number)
}


def score(names: list[str], completions: list[str], golds: list[str], tags: Tags) -> dict[str, list[float]]:
    """Each named reward of each completion.

    Args:
      names: keys of `PUBLISHED`.
      completions: B texts.
      golds: B gold answers as plain numbers.

    Returns:
      name → B floats.

    Raises:
      PipelineError: a name that is no reward.
    """
    unknown = [name for name in names if name not in PUBLISHED]
    if unknown:
        raise PipelineError(f"training.rewards: no reward {unknown[0]!r}; there are {', '.join(PUBLISHED)}")
    numbers = [answers.gold_number(gold) for gold in golds]
    return {
        name: [PUBLISHED[name](text, gold, tags) for text, gold in zip(completions, numbers, strict=True)]
        for name in names
    }
