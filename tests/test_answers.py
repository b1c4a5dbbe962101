"""The answer parser: what it reads from texts as models write them, and that no text makes it raise or crawl."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsm8k_grpo import answers
from gsm8k_grpo.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def number(text):
    """An expected number as these tables write it."""
    return None if text is None else Fraction(text)


# text: the number that it states as a whole, the first and the last number in it
READINGS = {
    "18": ("18", "18", "18"),
    "1,000": ("1000", "1000", "1000"),
    "1,234,567.5": ("1234567.5", "1234567.5", "1234567.5"),
    "1,000,": ("1000", "1000", "1000"),
    "$5.00": ("5", "5", "5"),
    "-$5": ("-5", "-5", "-5"),
    "$-5": ("-5", "-5", "-5"),
    "-7": ("-7", "-7", "-7"),
    "−7": ("-7", "-7", "-7"),
    "(-7)": ("-7", "-7", "-7"),
    "x = −7": ("-7", "-7", "-7"),
    ".5": ("0.5", "0.5", "0.5"),
    "-.5": ("-0.5", "-0.5", "-0.5"),
    "50%": ("50", "50", "50"),
    "**18**": ("18", "18", "18"),
    "18.": ("18", "18", "18"),
    "18.0": ("18", "18", "18"),
    "007": ("7", "7", "7"),
    "18 dollars": ("18", "18", "18"),
    "= 18": ("18", "18", "18"),
    "\n18\n": ("18", "18", "18"),
    "3/4": ("3/4", "3", "4"),
    "-3/4": ("-3/4", "-3", "4"),
    "**3 / 4**": ("3/4", "3", "4"),
    "3/0": (None, "3", "0"),
    "5-3": (None, "5", "3"),
    "18 or 19": (None, "18", "19"),
    "1,2": (None, "1", "2"),
    "1,2345": (None, "1", "2345"),
    "1,000,00": (None, "1", "0"),
    "1.2.3": (None, "1.2", "3"),
    "1,000 and 2,000": (None, "1000", "2000"),
    "eighteen": (None, None, None),
    "½": (None, None, None),
    "": (None, None, None),
    "9" * 400: ("9" * 400, "9" * 400, "9" * 400),
    "9" * 401: (None, None, None),
}


@pytest.mark.parametrize("text", READINGS, ids=lambda text: text[:20] or "empty")
def test_a_short_text_is_read_as_people_read_it(text):
    whole, first, last = map(number, READINGS[text])
    assert answers.parse_number(text) == whole
    assert answers.first_number(text) == first
    assert answers.flexible(text) == last


# what: completion, strict reading, flexible reading, whether it has the format
COMPLETIONS = {
    "as asked": ("<reasoning>2+2</reasoning>\n<answer>4</answer>", "4", "4", True),
    "white space around": ("\n <reasoning>2</reasoning>\n\t<answer>\n4\n</answer> \n", "4", "4", True),
    "decorated number": ("<reasoning>2</reasoning><answer>$1,234.50 each</answer>", "1234.5", "1234.5", True),
    "empty blocks": ("<reasoning></reasoning><answer></answer>", None, None, True),
    "no number in the block": ("<reasoning>2</reasoning><answer>two</answer>", None, "2", True),
    "two numbers in the block": ("<reasoning>2</reasoning><answer>4 or 5</answer>", None, "5", True),
    "text before": ("Sure! <reasoning>2</reasoning><answer>4</answer>", "4", "4", False),
    "text between": ("<reasoning>2</reasoning> so <answer>4</answer>", "4", "4", False),
    "text after": ("<reasoning>2</reasoning>\n<answer>4</answer>\nChecked 5 times.", "4", "5", False),
    "blocks in the wrong order": ("<answer>4</answer><reasoning>2</reasoning>", "4", "2", False),
    "tags in the wrong order": ("</reasoning>2<reasoning></answer>4<answer>", None, "4", False),
    "answer repeated": ("<reasoning>2</reasoning><answer>4</answer><answer>5</answer>", "5", "5", False),
    "reasoning repeated": ("<reasoning>2</reasoning><reasoning>3</reasoning><answer>4</answer>", "4", "4", False),
    "answer never closed": ("<reasoning>2</reasoning><answer>4", None, "4", False),
    "last answer never closed": ("<reasoning>2</reasoning><answer>4</answer><answer>5", "4", "5", False),
    "reasoning never closed": ("<reasoning>2<answer>4</answer>", "4", "4", False),
    "answer closed twice": ("<reasoning>2</reasoning><answer>4</answer> or 5</answer>", "4", "5", False),
    "answer nested": ("<reasoning>2</reasoning><answer><answer>4</answer></answer>", "4", "4", False),
    "answer inside the reasoning": ("<reasoning>2<answer>4</answer></reasoning>", "4", "4", False),
    "tags in capitals": ("<REASONING>2</REASONING><ANSWER>4</ANSWER>", None, "4", False),
    "hashes": ("2+2=4\n#### 4\nThat was question 5.", "4", "5", False),
    "hashes repeated": ("#### 4\n#### 5", "5", "5", False),
    "block before hashes": ("<answer>4</answer>\n#### 5", "4", "5", False),
    "empty block before hashes": ("<answer></answer>\n#### 5", None, "5", False),
    "number alone": ("4", None, "4", False),
    "nothing": ("", None, None, False),
}


@pytest.mark.parametrize("what", COMPLETIONS)
def test_a_completion_is_read_strictly_and_flexibly(what):
    completion, strict, flexible, has_format = COMPLETIONS[what]
    assert answers.strict(completion, TAGS) == number(strict)
    assert answers.flexible(completion) == number(flexible)
    assert answers.has_format(completion, TAGS) is has_format


def test_tags_are_the_recipes_own():
    tags = Tags("<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>")
    completion = "<start_working_out>2<end_working_out><SOLUTION>4</SOLUTION>"
    assert answers.has_format(completion, tags) and answers.strict(completion, tags) == 4
    assert not answers.has_format(completion, TAGS) and answers.strict(completion, TAGS) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(1000), "1000"),
        (Fraction(-7), "-7"),
        (Fraction(0), "0"),
        (Fraction(5, 2), "2.5"),
        (Fraction(-1, 2), "-0.5"),
        (Fraction(1, 100), "0.01"),
        (Fraction(1, 8), "0.125"),
        (Fraction(-4, 3), "-4/3"),
        (None, None),
    ],
    ids=str,
)
def test_plain_text_of_a_number(value, text):
    assert answers.plain(value) == text


@given(st.fractions(-(10**15), 10**15, max_denominator=10**6))
def test_plain_text_reads_back_as_the_same_number(value):
    text = answers.plain(value)
    assert answers.gold_number(text) == value
    assert answers.parse_number(text) == value


@given(st.integers(-(10**15), 10**15))
def test_any_whole_number_is_found_in_a_sentence(value):
    for shown in (f"{value:,}", str(value), f"{value:,}".replace("-", "−")):
        assert answers.parse_number(f"They paid ${shown}.") == value


@pytest.mark.parametrize(
    ("guess", "gold", "inside"),
    [
        (22, 20, True),
        (18, 20, True),
        ("22.01", 20, False),
        (-22, -20, True),
        (20, -20, False),
        (None, 20, False),
        (0, 0, True),
        ("0.001", 0, False),
    ],
)
def test_within_ten_percent(guess, gold, inside):
    assert answers.within(number(guess), Fraction(gold), Fraction(1, 10)) is inside


FRAGMENTS = st.sampled_from([*"0159.,-−$%/*=# \n<x", "1,000", "####", "٣", "²", *TAGS.all()])


@given(st.one_of(st.text(), st.lists(FRAGMENTS, max_size=40).map("".join)))
def test_no_text_raises_and_the_readings_agree(text):
    first, last, whole = answers.first_number(text), answers.flexible(text), answers.parse_number(text)
    if whole is not None and "/" not in text:
        assert first == last == whole
    if answers.has_format(text, TAGS):
        assert answers.answer_block(text, TAGS) is not None
    block = answers.answer_block(text, TAGS)
    if block is not None:
        assert TAGS.answer_start not in block and TAGS.answer_end not in block
        assert answers.strict(text, TAGS) == answers.parse_number(block)


READ_ALL = """
import sys
from gsm8k_grpo import answers
tags = answers.Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
text = sys.argv[1] * (1_000_000 // len(sys.argv[1])) + sys.argv[2]
answers.first_number(text), answers.flexible(text), answers.has_format(text, tags)
answers.strict(text, tags), answers.strict(f"<answer>{text}</answer>", tags)
"""


@pytest.mark.parametrize(
    ("repeated", "end"),
    [
        ("1", ""),
        ("1,", ""),
        ("000,", "0"),
        ("1.", ""),
        ("1 ", "/"),
        ("-", ""),
        ("<<<<", ""),
        ("#", ""),
        ("<answer>", ""),
    ],
)
def test_a_megabyte_is_read_in_linear_time(root, repeated, end):
    """In a process of its own, so that a pattern that explodes fails instead of hanging the tests."""
    subprocess.run([sys.executable, "-c", READ_ALL, repeated, end], cwd=root / "scripts", check=True, timeout=20)
