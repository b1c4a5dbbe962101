"""The published rewards: their values by hand, their ranges, and the faults of the published versions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsm8k_grpo import rewards
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.errors import PipelineError

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def completed(answer):
    """A completion in the exact format."""
    return f"<reasoning>because</reasoning>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("answer", "gold", "reward"),
    [
        ("18", 18, 3.0),
        (" 18 ", 18, 3.0),
        ("$18.00", 18, 3.0),
        ("1,800", 1800, 3.0),
        ("-5", -5, 3.0),
        ("5", -5, -1.0),
        ("22", 20, 0.5),
        ("18", 20, 0.5),
        ("-18", -20, 0.5),
        ("22.1", 20, 0.25),
        ("24", 20, 0.25),
        ("16", 20, 0.25),
        ("24.1", 20, -1.0),
        ("0", 0, 3.0),
        ("1", 0, -1.0),
        ("eighteen", 18, -0.5),
        ("", 18, -0.5),
        ("18 or 19", 18, -0.5),
    ],
)
def test_the_answer_reward_goes_by_the_distance_to_gold(answer, gold, reward):
    assert rewards.answer(completed(answer), Fraction(gold), TAGS) == reward


@pytest.mark.parametrize(
    ("completion", "exact", "approximate"),
    [
        (completed("18"), 3.0, 2.0),
        (f"  {completed('18')}\n", 3.0, 2.0),
        (f"{completed('18')} and more", 0.0, 2.0),
        ("<answer>18</answer><reasoning>because</reasoning>", 0.0, 2.0),
        ("<reasoning>because<answer>18</answer>", 0.0, 1.0),
        (f"{completed('18')}<answer>18", 0.0, 1.0),
        (completed("18") * 2, 0.0, -2.0),
        ("<answer>18</answer>", 0.0, 0.0),
        ("18", 0.0, -2.0),
    ],
)
def test_the_format_rewards_and_that_answers_need_the_exact_format(completion, exact, approximate):
    gold = Fraction(18)
    assert rewards.format_exact(completion, gold, TAGS) == exact
    assert rewards.format_approximate(completion, gold, TAGS) == approximate
    assert rewards.answer(completion, gold, TAGS) == (3.0 if exact else 0.0)


@pytest.mark.parametrize(
    ("completion", "gold", "reward"),
    [
        (completed("18"), 18, 1.5),
        (completed("1,800"), 1800, 1.5),
        (completed("-5"), -5, 1.5),
        ("<answer>18 or 19", 18, 1.5),
        ("<answer>18 or 19", 19, 0.0),
        ("<answer>5<answer>18", 18, 0.0),
        ("<answer>none", 18, 0.0),
        ("18", 18, 0.0),
    ],
)
def test_the_number_reward_takes_the_first_number_after_the_opening_tag(completion, gold, reward):
    assert rewards.number(completion, Fraction(gold), TAGS) == reward


@given(st.lists(st.sampled_from([*TAGS.all(), "18", "-", "1,000", " ", "x"])).map("".join), st.integers(-100, 100))
def test_rewards_stay_in_their_documented_ranges(completion, gold):
    scores = rewards.score(list(rewards.PUBLISHED), [completion], [str(gold)], TAGS)
    assert scores["format_exact"][0] in (0.0, 3.0)
    assert -2.0 <= scores["format_approximate"][0] <= 2.0
    assert scores["answer"][0] in (-1.0, -0.5, 0.0, 0.25, 0.5, 3.0)
    assert scores["number"][0] in (0.0, 1.5)


def test_scores_keep_the_order_of_names_and_completions():
    scores = rewards.score(["number", "format_exact"], [completed("18"), "18", completed("-2.5")], ["18"] * 3, TAGS)
    assert list(scores.items()) == [("number", [1.5, 0.0, 0.0]), ("format_exact", [3.0, 0.0, 3.0])]


def test_an_unknown_reward_is_named_with_those_that_exist():
    with pytest.raises(PipelineError, match=r"^training\.rewards: no reward 'speed'; there are format_exact, "):
        rewards.score(["answer", "speed"], ["x"], ["1"], TAGS)


def test_completions_without_gold_answers_are_refused():
    with pytest.raises(ValueError):
        rewards.score(["answer"], ["x", "y"], ["1"], TAGS)
