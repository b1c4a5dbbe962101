"""Systematic edits of an honest completion: what a model could write instead, to learn what a reward pays for.

`EDITS` is the registry. docs/rewards.md is made from it, and tests run each edit.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gsm8k_grpo.data.prompts import format_completion
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

# Any short words: one or more tokens in every tokenizer. None begins with another, so that words made of them differ.
FILLERS = ("so", "then", "now", "well", "thus", "hence")


@dataclass(frozen=True)
class Material:
    """An honest completion in its parts, and what an edit may put into it.

    Attributes:
      reasoning: the text of the reasoning block.
      answer: the text of the answer block, which is right.
      wrong: another number as text.
      other_reasoning: the reasoning of another row.
      limit_tokens: the longest completion.
      tags: the recipe's tags.
      rng: what an edit draws from.
    """

    reasoning: str
    answer: str
    wrong: str
    other_reasoning: str
    limit_tokens: int
    tags: Tags
    rng: random.Random

    def completion(self, reasoning: str | None = None, answer: str | None = None) -> str:
        """The completion with another reasoning or another answer."""
        reasoning = self.reasoning if reasoning is None else reasoning
        return format_completion(reasoning, self.answer if answer is None else answer, self.tags)

    def answer_block(self) -> str:
        """The answer between its tags."""
        return f"{self.tags.answer_start}{self.answer}{self.tags.answer_end}"


class Edit(NamedTuple):
    """A way to edit an honest completion."""

    about: str  # one sentence
    reasoning: bool  # whether anything is left that could be a reasoning of this problem
    apply: Callable[[Material], str]
    ritual: bool = False  # whether it has the form of a reasoning, as `prompt.reasoning` asks for it, and no content


def _shuffled(of: Material) -> str:
    words = of.reasoning.split()
    of.rng.shuffle(words)
    return of.completion(reasoning=" ".join(words))


def _contradicting(of: Material) -> str:
    """The reasoning with the wrong number wherever the answer stood, and as its conclusion."""
    value, parts, end = answers.parse_number(of.answer), [], 0
    for found in answers.NUMBER.finditer(of.reasoning):
        if answers.parse_number(found[0]) == value:
            parts += [of.reasoning[end : found.start()], of.wrong]
            end = found.end()
    return of.completion(reasoning=f"{''.join(parts)}{of.reasoning[end:]} So the answer is {of.wrong}.")


def _asked_calculations(of: Material) -> int:
    """How many calculations count as reasoning; one, where calculations do not count."""
    return of.tags.reasoning.calculations or 1


def _same_calculation(of: Material) -> str:
    return of.completion(reasoning=" ".join(["1+1=2"] * _asked_calculations(of)))


def _same_words(of: Material) -> str:
    """As many different words as count as reasoning; six, where words do not count."""
    words = ("".join(parts) for length in itertools.count(1) for parts in itertools.product(FILLERS, repeat=length))
    return of.completion(reasoning=" ".join(itertools.islice(words, of.tags.reasoning.words or len(FILLERS))))


# What rules look for in a reasoning: calculations, connecting words, a slip that is taken back, a middling length.
STEPS = (
    "First, 1 + 1 = 3. Wait, that is wrong: actually, 1 + 1 = 2. Then 2 + 2 = 4, so therefore 4 is what we need here, "
    "as it is in every problem."
)


def _doubled(of: Material) -> str:
    start, end, answer_start, answer_end = (2 * tag for tag in of.tags.all())
    return f"{start}{of.reasoning}{end}\n{answer_start}{of.answer}{answer_end}"


EDITS = {
    "reasoning_emptied": Edit(
        "Nothing stands between the reasoning tags.", False, lambda of: of.completion(reasoning="")
    ),
    "answer_alone": Edit("The answer block stands alone.", False, Material.answer_block),
    "answer_as_reasoning": Edit(
        "The answer takes the place of the reasoning.", False, lambda of: of.completion(reasoning=of.answer)
    ),
    "filler": Edit(
        "A filler word takes the place of the reasoning, as often as the longest completion has tokens.",
        False,
        lambda of: of.completion(reasoning=" ".join([FILLERS[0]] * of.limit_tokens)),
    ),
    "same_calculation": Edit(
        "The reasoning is 1+1=2 in every row, as often as counts as reasoning.", False, _same_calculation, True
    ),
    "same_words": Edit(
        "The reasoning is the same filler words in every row, as many as count as reasoning.", False, _same_words, True
    ),
    "same_steps": Edit(
        "The reasoning is the same steps in every row, with connecting words and a slip that is taken back.",
        False,
        lambda of: of.completion(reasoning=STEPS),
        True,
    ),
    "answer_plus_zero": Edit(
        "The reasoning is the answer plus 0, as a calculation.",
        False,
        lambda of: of.completion(reasoning=" ".join([f"{of.answer}+0={of.answer}"] * _asked_calculations(of))),
        True,
    ),
    "reasoning_shuffled": Edit("The words of the reasoning are in a random order.", True, _shuffled),
    "reasoning_of_another_row": Edit(
        "The reasoning is copied from another row.", True, lambda of: of.completion(reasoning=of.other_reasoning)
    ),
    "reasoning_contradicts": Edit("The reasoning comes to another number than the answer.", True, _contradicting),
    "answer_repeated": Edit(
        "The answer block stands three times.", True, lambda of: of.completion() + 2 * f"\n{of.answer_block()}"
    ),
    "tags_repeated": Edit("Each tag stands twice.", True, _doubled),
    "answer_wrong": Edit(
        "The reasoning is right and the answer is wrong.", True, lambda of: of.completion(answer=of.wrong)
    ),
}
