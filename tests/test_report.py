"""The page's words: they follow the numbers."""

import pytest

from gsm8k_grpo import report


@pytest.mark.parametrize(
    ("difference", "p", "words"),
    [
        (0.2, 0.001, "better"),
        (-0.2, 0.001, "worse"),
        (0.2, 0.05, "no significant change"),
        (0.0, 1.0, "no significant change"),
    ],
)
def test_a_change_is_named_only_when_the_test_finds_one(difference, p, words):
    assert report.verdict({"difference": {"value": difference}, "mcnemar_p": p}) == words


@pytest.mark.parametrize(
    ("p", "smallest", "words"),
    [
        (0.2, 0.0523, "600 rows would show a change of ± 5.2 points or more in 4 of 5 tries."),
        (1.0, None, "600 rows are too few to show any change."),
        (0.049, 0.0523, ""),
    ],
)
def test_no_significant_change_says_what_could_have_been_seen(p, smallest, words):
    assert report.resolution({"mcnemar_p": p, "smallest_difference": smallest, "n": 600}) == words


def test_numbers_are_printed_as_papers_print_them():
    assert [report.percent(value) for value in (0, 0.12345, 1)] == ["0.0 %", "12.3 %", "100.0 %"]
    assert [report.points(value) for value in (0.056, -0.056)] == ["+5.6", "−5.6"]
    assert [report.p_value(value) for value in (0.00001, 0.0012, 0.0496, 1.0)] == [
        "p < 0.0001",
        "p = 0.0012",
        "p = 0.0496",
        "p = 1.00",
    ]


@pytest.mark.parametrize(
    ("low", "value", "high", "words"),
    [
        (0.01, 0.02, 0.03, "better"),
        (-0.03, -0.02, -0.01, "worse"),
        (-0.01, 0.02, 0.05, "no significant change"),
        (None, 0.02, None, "no significant change"),
        (0.02, 0.02, 0.02, "no significant change"),
    ],
)
def test_over_seeds_a_change_is_named_only_when_its_interval_leaves_out_0(low, value, high, words):
    sd = None if low is None else (high - low) / 2
    assert report.seeds_verdict({"value": value, "sd": sd, "low": low, "high": high}) == words


def test_of_several_completions_a_prompt_it_is_said_which_are_compared():
    compared = {"both": 3, "fixed": 4, "broken": 1, "neither": 2, "n": 10}
    assert report.first_completions(compared, 1) == ""
    assert report.first_completions(compared, 4) == (
        "The comparison is of the first of the 4 completions of each prompt (40.0 % → 70.0 %); the rates are over all, "
        "with intervals over prompts."
    )


def test_examples_show_a_fair_share_of_each_outcome():
    def row(identifier, correct):
        return {"id": identifier, "strict_correct": correct}

    before = [True, True, False, False, False, False, True]
    after = [True, False, True, False, True, True, True]
    base = [row(str(index), correct) for index, correct in enumerate(before)]
    final = [row(str(index), correct) for index, correct in enumerate(after)]
    prompts = {str(index): "asked" for index in range(7)}
    shown = report.examples({"base": base, "final": final}, prompts, 4, "strict_correct")
    assert [(pair["outcome"], pair["base"]["id"]) for pair in shown] == [
        ("fixed", "2"),
        ("broken", "1"),
        ("wrong both times", "3"),
        ("right both times", "0"),
    ]
    assert report.examples({"base": base, "final": final}, prompts, 0, "strict_correct") == []
    everything = report.examples({"base": base, "final": final}, prompts, 40, "strict_correct")
    assert sorted(pair["base"]["id"] for pair in everything) == [str(index) for index in range(7)]
