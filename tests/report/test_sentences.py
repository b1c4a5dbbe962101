"""The sentences and numbers of the page."""

import pytest

from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.evaluation.comparison import verdict
from gsm8k_grpo.report import numbers, sentences


@pytest.mark.parametrize(
    ("difference", "p", "expected"),
    [
        (0.2, 0.001, "better"),
        (-0.2, 0.001, "worse"),
        (0.2, 0.05, "no significant change"),
        (0.0, 1.0, "no significant change"),
    ],
)
def test_the_verdict_follows_the_test(difference, p, expected):
    assert verdict({"difference": {"value": difference}, "mcnemar_p": p}) == expected


@pytest.mark.parametrize(
    ("corrected", "expected"), [(None, "better"), (0.04, "better"), (0.06, "no significant change")]
)
def test_the_verdict_of_a_secondary_test_follows_holms_p(corrected, expected):
    found = {"difference": {"value": 0.2}, "mcnemar_p": 0.01, "holm_p": corrected}
    assert verdict(found) == expected


@pytest.mark.parametrize(
    ("p", "smallest", "expected"),
    [
        (0.2, 0.0523, "600 rows would show a change of ± 5.2 points or more in 4 of 5 tries."),
        (1.0, None, "600 rows are too few to show any change."),
        (0.049, 0.0523, ""),
    ],
)
def test_without_a_significant_change_the_detectable_one_is_given(p, smallest, expected):
    assert sentences.resolution({"mcnemar_p": p, "smallest_difference": smallest, "n": 600}) == expected


@pytest.mark.parametrize(
    ("answer", "flexible", "expected"),
    [
        ((0.5, 0.001), (0.3, 0.001), "better by +30.0 points: the rest of the gain is format."),
        ((0.3, 0.001), (0.3, 0.001), "better by +30.0 points."),
        ((0.5, 0.001), (0.01, 0.3), "no significant change (+1.0 points): perhaps only the format changed."),
        ((0.0, 1.0), (0.01, 0.3), "no significant change either (+1.0 points)."),
        ((0.5, 0.001), (-0.1, 0.01), "With the format ignored, it is worse (−10.0 points)."),
        ((-0.2, 0.01), (-0.1, 0.01), "With the format ignored, it is worse (−10.0 points)."),
        ((0.0, 1.0), (0.1, 0.01), "With the format ignored, it is better (+10.0 points)."),
    ],
)
def test_a_gain_in_format_is_not_called_mathematics(answer, flexible, expected):
    compared = {
        name: {"difference": {"value": value}, "mcnemar_p": p}
        for name, (value, p) in (("answer", answer), ("flexible", flexible))
    }
    assert sentences.format_or_mathematics(compared).endswith(expected)


@pytest.mark.parametrize(
    ("print_number", "expected"),
    [
        (numbers.percent, {0: "0.0 %", 0.12345: "12.3 %", 1: "100.0 %", -0.01: "−1.0 %"}),
        (numbers.points, {0.056: "+5.6", -0.056: "−5.6", 0.0: "0.0", -0.0004: "0.0"}),
        (numbers.tenth, {None: "", 0.5: "50.0", -0.0031: "−0.3"}),
        (numbers.p_value, {0.00001: "p < 0.0001", 0.0012: "p = 0.0012", 0.0496: "p = 0.0496", 1.0: "p = 1.00"}),
        (numbers.duration, {0: "0.0 s", 0.0123: "12.3 ms", 0.21: "210 ms", 3.21: "3.2 s", 45: "45 s", 300: "5 min"}),
        (numbers.duration, {9000: "2.5 h"}),
        (size_text, {2**34: "16.00 GiB", 2**20: "1.00 MiB"}),
        (lambda value: numbers.plural(value, "row"), {0: "0 rows", 1: "1 row", 1319: "1,319 rows"}),
        (lambda value: numbers.decimals(value, 2), {-0.314: "−0.31", 1234: "1,234.00"}),
        (numbers.published_rate, {None: "–", 0.145: "14.5 %", (0.1, 0.15): "10 to 15 %"}),
        (lambda value: numbers.published_rate(value, signed=True), {-0.025: "−2.5 points"}),
    ],
)
def test_numbers_are_printed_as_in_papers(print_number, expected):
    assert {value: print_number(value) for value in expected} == expected


@pytest.mark.parametrize(
    ("low", "value", "high", "expected"),
    [
        (0.01, 0.02, 0.03, "better"),
        (-0.03, -0.02, -0.01, "worse"),
        (-0.01, 0.02, 0.05, "no significant change"),
        (None, 0.02, None, "no interval"),
        (0.02, 0.02, 0.02, "no interval"),
    ],
)
def test_the_verdict_over_seeds_follows_the_interval(low, value, high, expected):
    sd = None if low is None else (high - low) / 2
    assert sentences.seeds_verdict({"value": value, "sd": sd, "low": low, "high": high}) == expected


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
def test_invisible_characters_are_shown_by_their_codes(text, shown):
    assert numbers.shorten_visible(text) == shown


def test_long_text_is_cut_and_counted():
    assert numbers.shorten_visible("x" * 1_000_000) == "x" * 4000 + " … and 996,000 characters more"


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        (
            {"name": "qwen2.5-0.5b", "parameters": 494032768, "origin": {"source": "huggingface"}},
            {"name": "gsm8k", "origin": {"source": "jsonl"}},
            "The model is qwen2.5-0.5b, with 494,032,768 parameters. Trained by GRPO on 6,972 rows of gsm8k.",
        ),
        (
            {"name": "tiny", "parameters": 700000, "origin": {"source": "pretrained"}},
            {"name": "word-problems", "origin": {"source": "generated"}},
            "A miniature, taught flaws on purpose: 700,000 parameters, pretrained here. Trained by GRPO on 6,972 rows "
            "of word-problems, which a program made.",
        ),
    ],
)
def test_the_card_says_which_model_learned_on_which_data(model, data, expected):
    run = {"model": model, "dataset": data, "prompts": {"splits": {"train": {"rows": 6972}}}}
    run["settings"] = {"training": {"method": "grpo"}}
    assert sentences.subject(run) == expected
    assert sentences.subject({**run, "dataset": None}) == ""


def test_the_headline_says_which_of_several_samples_count():
    rate = {"value": 0.25, "low": 0.2, "high": 0.3}
    one = {"difference": {"value": 0.4, "low": 0.3, "high": 0.5}, "mcnemar_p": 1e-9, "fixed": 4, "broken": 0, "n": 10}
    run = {name: {"answer_accuracy": rate, "split": "dev", "samples": 4} for name in ("base", "final")}
    run["compared"] = dict.fromkeys(("answer", "flexible"), one | {"smallest_difference": None})
    assert "of 10 dev rows: by the first of 4 samples of each, +40.0 points (+30.0 to +50.0;" in sentences.headline(run)
    run["base"]["samples"] = 1
    assert "of 10 dev rows: +40.0 points" in sentences.headline(run)


def test_the_headline_over_seeds_says_why_there_is_no_interval():
    spread = {"value": 0.5, "sd": 0.1, "low": 0.4, "high": 0.6, "n": 3}
    equal, alone = spread | {"sd": 0.0}, spread | {"sd": None, "low": None, "high": None, "n": 1}

    def sentence(answer, flexible):
        return sentences.seeds_headline({"final - base": {"answer_accuracy": answer, "flexible_accuracy": flexible}})

    assert sentence(spread, equal) == (
        "Answer accuracy changed by +50.0 points on average (+40.0 to +60.0): better. With the format ignored, it "
        "changed by "
        "+50.0 points in each of the 3 runs, which gives no interval over seeds."
    )
    # The verdict is on one number, so that only one test is made.
    assert sentence(spread, spread).endswith("it changed by +50.0 points on average (+40.0 to +60.0).")
    assert sentence(alone, alone).startswith(
        "Answer accuracy changed by +50.0 points in the one run, which gives no interval"
    )


def paired(value, p=1e-9):
    """A paired test of answers."""
    ends = {"value": value, "low": value - 0.05, "high": value + 0.05}
    return {"answer": {"difference": ends, "mcnemar_p": p, "holm_p": min(1.0, 2 * p)}}


@pytest.mark.parametrize(
    ("own", "controls", "expected"),
    [
        (
            paired(0.66),
            {"random": (paired(0.006, 0.8), paired(-0.654)), "format_only": (paired(0.266), paired(-0.394))},
            "Of the +66.0 points that answer accuracy gains, the control format_only (about it) gains +26.6 too; the "
            "other +39.4 (+34.4 to +44.4; McNemar p < 0.0001, Holm) need the recipe's own rewards.",
        ),
        (
            paired(0.66),
            {"random": (paired(0.006, 0.8), paired(-0.654))},
            "No part of the gain of +66.0 points in answers is explained by the control, random (about it): it changes "
            "them by +0.6 points (p = 0.80).",
        ),
        (
            paired(0.3),
            {"shuffled_gold": (paired(0.29), paired(-0.01, 0.3))},
            "The control shuffled_gold (about it) changes answer accuracy by +29.0 points and the recipe's own rewards "
            "by +30.0, which is no significant advantage (McNemar p = 0.60, Holm): this gain does not show that right "
            "answers taught anything.",
        ),
        (
            paired(0.01, 0.4),
            {"random": (paired(0.006, 0.8), paired(-0.004, 0.9))},
            "Answer accuracy did not rise significantly (+1.0 points), so a control has no gain to explain.",
        ),
        (paired(0.66), {"random": (paired(0.006, 0.8), None)}, ""),
        (paired(0.66), {"random": (None, paired(-0.654))}, ""),
        (None, {"random": (paired(0.006, 0.8), paired(-0.654))}, ""),
    ],
    ids=["a part", "no part", "all of it", "no gain", "no test", "an unfinished control", "an unfinished run"],
)
def test_the_sentence_on_controls_says_which_part_of_the_gain_they_explain(own, controls, expected):
    listed = [
        {"name": name, "about": "about it", "run": {"compared": compared}, "against": against}
        for name, (compared, against) in controls.items()
    ]
    assert sentences.controls_sentence({"compared": own, "controls": listed}) == expected
