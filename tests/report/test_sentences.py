"""The page's words: they follow the numbers."""

import pytest

from gsm8k_grpo.report import numbers, sentences


@pytest.mark.parametrize(
    ("difference", "p", "said"),
    [
        (0.2, 0.001, "better"),
        (-0.2, 0.001, "worse"),
        (0.2, 0.05, "no significant change"),
        (0.0, 1.0, "no significant change"),
    ],
)
def test_a_change_is_named_only_when_the_test_finds_one(difference, p, said):
    assert sentences.verdict({"difference": {"value": difference}, "mcnemar_p": p}) == said


@pytest.mark.parametrize(
    ("p", "smallest", "said"),
    [
        (0.2, 0.0523, "600 rows would show a change of ± 5.2 points or more in 4 of 5 tries."),
        (1.0, None, "600 rows are too few to show any change."),
        (0.049, 0.0523, ""),
    ],
)
def test_no_significant_change_says_what_could_have_been_seen(p, smallest, said):
    assert sentences.resolution({"mcnemar_p": p, "smallest_difference": smallest, "n": 600}) == said


@pytest.mark.parametrize(
    ("answer", "flexible", "said"),
    [
        ((0.5, 0.001), (0.3, 0.001), "better by +30.0 points: the rest of the gain is format."),
        ((0.3, 0.001), (0.3, 0.001), "better by +30.0 points."),
        (
            (0.5, 0.001),
            (0.01, 0.3),
            "no significant change (+1.0 points): that more than the format changed is not shown.",
        ),
        ((0.0, 1.0), (0.01, 0.3), "no significant change either (+1.0 points)."),
        ((0.5, 0.001), (-0.1, 0.01), "With the format ignored it is worse (−10.0 points)."),
        ((-0.2, 0.01), (-0.1, 0.01), "With the format ignored it is worse (−10.0 points)."),
        ((0.0, 1.0), (0.1, 0.01), "With the format ignored it is better (+10.0 points)."),
    ],
)
def test_a_gain_in_format_is_not_sold_as_one_in_mathematics(answer, flexible, said):
    compared = {
        name: {"difference": {"value": value}, "mcnemar_p": p}
        for name, (value, p) in (("answer", answer), ("flexible", flexible))
    }
    assert sentences.format_or_mathematics(compared).endswith(said)


def test_numbers_are_printed_as_papers_print_them():
    assert [numbers.percent(value) for value in (0, 0.12345, 1, -0.01)] == ["0.0 %", "12.3 %", "100.0 %", "−1.0 %"]
    assert [numbers.points(value) for value in (0.056, -0.056, 0.0, -0.0004)] == ["+5.6", "−5.6", "0.0", "0.0"]
    assert [numbers.tenth(value) for value in (None, 0.5, -0.0031)] == ["", "50.0", "−0.3"]
    assert [numbers.decimals(value, 2) for value in (-0.314, 1234)] == ["−0.31", "1,234.00"]
    assert [numbers.p_value(value) for value in (0.00001, 0.0012, 0.0496, 1.0)] == [
        "p < 0.0001",
        "p = 0.0012",
        "p = 0.0496",
        "p = 1.00",
    ]
    assert [numbers.duration(value) for value in (0, 0.0123, 0.21, 3.21, 45, 300, 9000)] == [
        "0.0 s",
        "12.3 ms",
        "210 ms",
        "3.2 s",
        "45 s",
        "5 min",
        "2.5 h",
    ]
    assert [numbers.gibibytes(value) for value in (2**34, 2**20)] == ["16.00 GiB", "1.0 MiB"]
    assert [numbers.plural(value, "row") for value in (0, 1, 1319)] == ["0 rows", "1 row", "1,319 rows"]
    assert [numbers.published_rate(value) for value in (None, 0.145, [0.1, 0.15])] == ["–", "14.5 %", "10 to 15 %"]
    assert numbers.published_rate(-0.025, signed=True) == "−2.5 points"


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.01, 0.02, 0.03, "better"),
        (-0.03, -0.02, -0.01, "worse"),
        (-0.01, 0.02, 0.05, "no significant change"),
        (None, 0.02, None, "no interval"),
        (0.02, 0.02, 0.02, "no interval"),
    ],
)
def test_over_seeds_a_change_is_named_only_when_its_interval_leaves_out_0(low, value, high, said):
    sd = None if low is None else (high - low) / 2
    assert sentences.seeds_verdict({"value": value, "sd": sd, "low": low, "high": high}) == said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nof two lines, ünïcode 数学 🙂", "plain\ttext\nof two lines, ünïcode 数学 🙂"),
        ("\x00\x1b[31m\x7f\x85\r", "⟨U+0000⟩⟨U+001B⟩[31m⟨U+007F⟩⟨U+0085⟩⟨U+000D⟩"),
        ("\u202egnp.exe\u2066", "⟨U+202E⟩gnp.exe⟨U+2066⟩"),
        ("\u2028\u2029\ufeff\u200b", "⟨U+2028⟩⟨U+2029⟩⟨U+FEFF⟩⟨U+200B⟩"),
        ("\ud800 \udfff", "⟨U+D800⟩ ⟨U+DFFF⟩"),
        ("\U000e0041\uffff", "⟨U+E0041⟩⟨U+FFFF⟩"),
    ],
)
def test_what_cannot_be_seen_is_shown_by_its_number(text, shown):
    assert numbers.shorten_visible(text) == shown


def test_megabytes_are_cut_and_counted():
    assert numbers.shorten_visible("x" * 1_000_000) == "x" * 4000 + " … and 996,000 characters more"


def test_of_several_samples_the_headline_says_which_are_counted():
    rate = {"value": 0.25, "low": 0.2, "high": 0.3}
    one = {"difference": {"value": 0.4, "low": 0.3, "high": 0.5}, "mcnemar_p": 1e-9, "fixed": 4, "broken": 0, "n": 10}
    told = {name: {"answer_accuracy": rate, "split": "dev", "samples": 4} for name in ("base", "final")}
    told["compared"] = dict.fromkeys(("answer", "flexible"), one | {"smallest_difference": None})
    assert "of 10 dev rows: by the first of 4 samples of each, +40.0 points (+30.0 to +50.0;" in sentences.headline(
        told
    )
    told["base"]["samples"] = 1
    assert "of 10 dev rows: +40.0 points" in sentences.headline(told)


def test_over_seeds_the_headline_says_why_there_is_no_interval():
    spread = {"value": 0.5, "sd": 0.1, "low": 0.4, "high": 0.6, "n": 3}
    equal, alone = spread | {"sd": 0.0}, spread | {"sd": None, "low": None, "high": None, "n": 1}

    def said(answer, flexible):
        return sentences.seeds_headline({"final - base": {"answer_accuracy": answer, "flexible_accuracy": flexible}})

    assert said(spread, equal) == (
        "Answer accuracy changed by +50.0 points on average (+40.0 to +60.0): better. With the format ignored, by "
        "+50.0 points in each of the 3 runs, which gives no interval over seeds."
    )
    assert said(alone, alone).startswith(
        "Answer accuracy changed by +50.0 points in the one run, which gives no interval"
    )
