"""Figures of how completions reason."""

import pytest

from gsm8k_grpo.rewards import reasoning
from gsm8k_grpo.rewards.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


@pytest.mark.parametrize(
    ("completion", "words", "calculations", "true", "agrees"),
    [
        ("<reasoning>48 / 2 = 24. So 24.</reasoning><answer>24</answer>", 7, 1, 1, True),
        ("<reasoning>2*3=6\n6+1=8</reasoning>\n<answer>8</answer>", 2, 2, 0.5, True),  # wrong, and consistent
        ("<reasoning>2*3=6</reasoning>\n<answer>7</answer>", 1, 1, 1, False),
        ("<reasoning></reasoning><answer>7</answer>", 0, 0, None, False),
        ("2*3=6\n<answer>6.0</answer>", 0, 1, 1, True),
        ("<reasoning>2*3=6", 0, 1, 1, False),
        ("<reasoning>1+1=5/0</reasoning><answer>none</answer>", 1, 1, 0, False),
    ],
)
def test_words_calculations_and_their_agreement_with_the_answer(completion, words, calculations, true, agrees):
    assert reasoning.reasoning_metrics([completion], TAGS) == {
        "reasoning_words": words,
        "calculations": calculations,
        "calculations_true": true,
        "calculated_answers": agrees,
    }


def test_figures_are_means_over_completions_and_over_calculations():
    first = "<reasoning>2*3=6, 6+1=8, 8*1=8</reasoning><answer>8</answer>"
    found = reasoning.reasoning_metrics([first, "<reasoning>a b c</reasoning>1+1=2", "", "9"], TAGS)
    assert found == {
        "reasoning_words": 6 / 4,
        "calculations": 1,
        "calculations_true": 3 / 4,
        "calculated_answers": 1 / 4,
    }
