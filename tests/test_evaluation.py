"""Counting: one completion a prompt as rates, several as means over prompts, pass@k and maj@k."""

import pytest

from gsm8k_grpo import evaluation, stats
from gsm8k_grpo.answers import Tags

TAGS = Tags("<r>", "</r>", "<a>", "</a>")


def rows(*prompts, gold="18"):
    """Graded rows: for each prompt, its completions."""
    return [
        {
            "id": str(index),
            "answer": gold,
            **evaluation.grade(text, gold, TAGS),
            "tokens": 4,
            "stop_reason": "limit" if text.endswith("…") else "end_of_turn",
        }
        for index, texts in enumerate(prompts)
        for text in texts
    ]


def test_one_completion_a_prompt_gives_wilson_rates():
    graded = rows(["<r>x</r><a>18</a>"], ["18 or 19"], ["it is 18.0"], ["…"])
    found = evaluation.metrics(graded, "flexible")
    assert found["answer_accuracy"] == stats.rate(2, 4) == found["flexible_accuracy"]
    assert found["strict_accuracy"] == found["format_accuracy"] == found["truncated_rate"] == stats.rate(1, 4)
    assert found["samples"] == 1 and "pass_at_k" not in found and "maj_at_k" not in found


def test_several_completions_give_means_over_prompts_and_pass_and_majority():
    graded = rows(["18", "18.00", "3"], ["3", "3", "18"], ["none", "18", "…"], ["1", "2", "3"])
    found = evaluation.metrics(graded, "flexible")
    assert found["answer_accuracy"]["value"] == pytest.approx((2 + 1 + 1 + 0) / 12)
    assert found["answer_accuracy"]["n"] == 4
    assert found["pass_at_k"]["value"] == 3 / 4  # the last prompt has none right
    assert found["maj_at_k"]["value"] == 2 / 4  # 18 = 18.00; a completion without a number does not vote
    assert found["truncated_rate"]["value"] == pytest.approx(1 / 12)


@pytest.mark.parametrize(
    ("completions", "exact", "words"),
    [
        (["<r>x</r><a>1</a>", "no"], 0.5, None),
        (["no", "neither"], 0.0, "in 2 completions the base model never wrote <r>, </r>, <a>, </a>. GRPO only"),
        (["<r>", "</r>"], 0.0, "never wrote <a>, </a>. GRPO only makes likelier what is sampled"),
        (["<a>1</a><r>x</r>"], 0.0, "wrote each tag, never all four in order"),
    ],
)
def test_a_format_that_never_occurs_is_warned_of(completions, exact, words):
    found = evaluation.format_check(completions, TAGS)
    assert found["exact"]["value"] == exact
    assert (found["warning"] is None) if words is None else words in found["warning"]
