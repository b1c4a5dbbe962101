"""The rewards: their tables of cases, their ranges, attempts to exploit them; and the scores of a recipe."""

import inspect
import re
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import answers, controls, published, scoring, tags_and_answer
from gsm8k_grpo.rewards.answers import Tags, gold_number

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")

SHORT = Tags("<r>", "</r>", "<a>", "</a>")  # of the tables of cases


def stated_range(name):
    """(lowest, highest) value, from the reward's docstring."""
    low, high = re.search(r"Range (\S+) … (\S+)\.\s", inspect.getdoc(scoring.REWARDS[name])).groups()
    return float(low.replace("−", "-")), float(high)


def cases():
    """(name, completion, gold, reward) of each row of the tables in the rewards' docstrings."""
    for name, reward in scoring.REWARDS.items():
        for line in inspect.getdoc(reward).splitlines():
            if line.startswith("|") and "| gold" not in line:
                completion, gold, value = (cell.strip() for cell in line.strip("|").split("|"))
                completion = re.sub(r"\{(\d+) words\}", lambda words: "word " * int(words[1]), completion)
                yield pytest.param(name, completion.replace(r"\n", "\n"), gold, float(value), id=f"{name}: {line}")


def rows(*golds):
    """Rows of prompts with these gold answers."""
    return [{"id": f"train-{index}", "prompt": f"{index}?", "answer": gold} for index, gold in enumerate(golds)]


def completed(answer):
    """A completion in the exact format."""
    return f"<reasoning>20 - 2 = 18</reasoning>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(("name", "completion", "gold", "reward"), cases())
def test_each_reward_does_what_its_table_of_cases_says(name, completion, gold, reward):
    assert scoring.REWARDS[name](completion, gold_number(gold), SHORT) == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize("name", scoring.REWARDS)
def test_each_table_reaches_both_ends_of_the_stated_range(name):
    values = [case.values[3] for case in cases() if case.values[0] == name]
    assert len(values) >= 4 and (min(values), max(values)) == stated_range(name)


@pytest.mark.parametrize("name", scoring.REWARDS)
def test_a_reward_is_listed_as_gold_blind_exactly_if_no_case_of_its_table_changes_with_the_gold_answer(name):
    changes = False
    for case in cases():
        of, completion, gold, _ = case.values
        if of == name:
            numbers = {Fraction(gold_number(gold)), *map(Fraction, re.findall(r"\d+", completion)), Fraction(10**9)}
            changes |= len({scoring.REWARDS[name](completion, number, SHORT) for number in numbers}) > 1
    assert changes == (name not in controls.GOLD_BLIND)


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
        ("eighteen", 18, 0.0),  # no number, so no format
        ("", 18, 0.0),
        ("18 or 19", 18, 0.0),
    ],
)
def test_the_answer_reward_goes_by_the_distance_to_gold(answer, gold, reward):
    assert tags_and_answer.answer(completed(answer), Fraction(gold), TAGS) == reward


@pytest.mark.parametrize(
    ("completion", "exact", "approximate"),
    [
        (completed("18"), 3.0, 2.0),
        (f"  {completed('18')}\n", 3.0, 2.0),
        (f"{completed('18')} and more", 0.0, 2.0),
        ("<reasoning></reasoning><answer>18</answer>", 0.0, 2.0),
        ("<reasoning>because</reasoning><answer>18</answer>", 0.0, 2.0),
        ("<answer>18</answer><reasoning>20 - 2 = 18</reasoning>", 0.0, 2.0),
        ("<reasoning>20 - 2 = 18<answer>18</answer>", 0.0, 1.0),
        (f"{completed('18')}<answer>18", 0.0, 1.0),
        (completed("18") * 2, 0.0, -2.0),
        ("<answer>18</answer>", 0.0, 0.0),
        ("18", 0.0, -2.0),
    ],
)
def test_the_format_rewards_and_that_answers_need_the_exact_format(completion, exact, approximate):
    gold = Fraction(18)
    assert tags_and_answer.format_exact(completion, gold, TAGS) == exact
    assert tags_and_answer.format_approximate(completion, gold, TAGS) == approximate
    assert tags_and_answer.answer(completion, gold, TAGS) == (3.0 if exact else 0.0)


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
    assert tags_and_answer.number(completion, Fraction(gold), TAGS) == reward


PIECES = [*TAGS.all(), "18", "-", "1,000", " ", "x", ". ", "So ", "Wait, ", "= 5", "\\boxed{", "}", "####", "\n"]


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text(), st.integers(-100, 100))
def test_rewards_are_finite_numbers_in_their_documented_ranges(completion, gold):
    scores = scoring.score(list(scoring.REWARDS), rows(str(gold)), [completion], TAGS)
    assert list(scores) == list(scoring.REWARDS)
    for name in scoring.REWARDS:
        low, high = stated_range(name)
        assert isinstance(scores[name][0], float) and low <= scores[name][0] <= high, name
    assert scores["answer"][0] in (-1.0, 0.0, 0.25, 0.5, 3.0)
    assert scores["published_answer"][0] in (-1.0, -0.5, 0.0, 0.25, 0.5, 1.5, 3.0)


def test_the_weighted_set_sums_to_one_and_two_small_bonuses():
    reasoning = "First, 16 - 3 = 12 eggs. Wait, 16 - 3 = 13 eggs. So 13 + 5 = 18 eggs are what she has."
    best = f"<reasoning>{reasoning}</reasoning><answer>18</answer>"
    names = ["weighted_format", "weighted_logic", "weighted_accuracy", "self_correction", "fitting_length"]
    scores = scoring.score(names, rows("18"), [best], TAGS)
    assert [values[0] for values in scores.values()] == pytest.approx([0.25, 0.30, 0.45, 0.1, 0.1])


@pytest.mark.parametrize("name", ["weighted_logic", "self_correction", "fitting_length"])
@pytest.mark.parametrize("words", ["so ", "wait, ", "so 1. ", "wait 1 ", "first 5 then 6 so 7 "])
def test_more_of_the_same_earns_nothing_more(name, words):
    def reward(times):
        completion = f"<reasoning>9 eggs. {words * times}</reasoning><answer>18</answer>"
        return scoring.REWARDS[name](completion, Fraction(18), TAGS)

    few, many = reward(20), reward(400)
    assert many <= few


@pytest.mark.parametrize("piece", ["wait 1 ", "so 1 ", "\\boxed{", "\\boxed{1}{", "<reasoning>", "1. ", "1,", "{}"])
def test_no_completion_takes_long(piece):
    completion = f"<reasoning>5 {piece * 20_000}</reasoning><answer>18</answer>"
    started = time.perf_counter()
    scoring.score(list(scoring.REWARDS), rows("18"), [completion], TAGS)
    assert time.perf_counter() - started < 5


GOLDS = ("18", "-5", "0", "1,000", "2.5")
PUBLISHED = [*TAGS.all(), *TAGS.all(), "18", "-5", "1,000", "0", ".", "nan", "x", " ", "\n", "\r\n", "\u00a0", "\t"]


@given(st.lists(st.sampled_from(PUBLISHED), max_size=14).map("".join), st.sampled_from(GOLDS))
def test_the_published_rewards_match_what_the_published_pattern_matches(completion, gold):
    """The pattern as described: a line begins with the first tag, a line ends with the last, no block is empty."""
    start, end, answer_start, answer_end = TAGS.all()
    pattern = rf"^\s*{start}.+?{end}.*?{answer_start}(.+?){answer_end}\s*$"
    found = re.compile(pattern, re.MULTILINE | re.DOTALL).search(completion)
    assert published._answer_in_format(completion, TAGS) == (found and found[1])
    scores = scoring.score(["published_format_exact", "published_answer"], rows(gold), [completion], TAGS)
    assert scores["published_format_exact"] == [3.0 if found else 0.0]
    if found and found[1].strip() == gold:
        assert scores["published_answer"] == [3.0 if found[1] == gold else 1.5]


@given(st.lists(st.sampled_from(["step", " 1", "12", "+", " - ", "×", "so", "=", "\n", "x"]), max_size=20).map("".join))
def test_the_published_logic_counts_what_its_pattern_counts(text):
    operations = len(re.findall(r"\d+\s*[+\-×÷*/]\s*\d+", text))
    others = min(0.3, 0.1 * len(re.findall(r"step\s*\d", text))) + min(0.1, 0.02 * text.count("="))
    others += 0.05 * (("so" in text) + ("step" in text))
    found = scoring.REWARDS["published_weighted_logic"](f"<r>{text}</r>", Fraction(18), SHORT)
    assert found == pytest.approx(0.3 * (others + min(0.2, 0.05 * operations)))


def test_published_rewards_compare_with_the_gold_answer_as_the_data_set_writes_it():
    row = {"id": "train-0", "prompt": "?", "answer": "1000", "answer_as_published": "1,000"}
    texts = [completed("1000"), completed("1,000")]
    names = ["answer", "number", "published_answer", "published_number", "published_minigrpo"]
    scores = scoring.score(names, [row, row], texts, TAGS)
    assert list(scores.values()) == [[3.0, 3.0], [1.5, 1.5], [-0.5, 3.0], [0.0, 0.0], [0.0, 1.0]]


def test_no_reasoning_earns_less_than_reasoning_with_the_default_rewards():
    names = ["format_exact", "format_approximate", "answer", "number"]
    honest = completed("18")
    for empty in ("", " ", "18", "so", "...", "<reasoning>"):
        lazy = f"<reasoning>{empty}</reasoning><answer>18</answer>"
        scores = scoring.score(names, rows("18", "18"), [honest, lazy], TAGS)
        totals = [sum(values) for values in zip(*scores.values(), strict=True)]
        assert totals[0] == 9.5 and totals[1] <= 3.5
        assert not answers.has_format(lazy, TAGS)


def test_scores_keep_the_order_of_names_and_completions():
    texts = [completed("18"), "18", completed("-2.5")]
    scores = scoring.score(["number", "format_exact"], rows(*["18"] * 3), texts, TAGS)
    assert list(scores.items()) == [("number", [1.5, 0.0, 0.0]), ("format_exact", [3.0, 0.0, 3.0])]


def test_an_unknown_reward_is_named_with_those_that_exist():
    with pytest.raises(PipelineError, match=r"^training\.rewards: no reward 'speed'; there are format_exact, "):
        scoring.score(["answer", "speed"], rows("1"), ["x"], TAGS)


def test_completions_without_gold_answers_are_refused():
    with pytest.raises(ValueError):
        scoring.score(["answer"], rows("1"), ["x", "y"], TAGS)
