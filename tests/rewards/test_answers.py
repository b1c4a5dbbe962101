"""The answer parser: what it reads from texts as models write them, and that no text makes it raise or slow."""

import json
import subprocess
import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.rewards import answers, published_cascade
from gsm8k_grpo.rewards.answers import Reasoning, Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def number(text):
    """A number of these tables."""
    return None if text is None else Fraction(text)


# text: its only number, its first number, its last number
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
    # A sentence's points are not decimal points.
    "The answer is...18": ("18", "18", "18"),
    "..5": ("5", "5", "5"),
    "some eggs.5": ("5", "5", "5"),
    "50%": ("50", "50", "50"),
    "**18**": ("18", "18", "18"),
    "18.": ("18", "18", "18"),
    "18.0": ("18", "18", "18"),
    "007": ("7", "7", "7"),
    "18 dollars": ("18", "18", "18"),
    "= 18": ("18", "18", "18"),
    "\n18\n": ("18", "18", "18"),
    "3/4": ("3/4", "3/4", "3/4"),
    "-3/4": ("-3/4", "-3/4", "-3/4"),
    "−3/4": ("-3/4", "-3/4", "-3/4"),
    "**3/4**": ("3/4", "3/4", "3/4"),
    "**3 / 4**": ("3/4", "3/4", "3/4"),
    "3 / 4 cups": ("3/4", "3/4", "3/4"),
    "3/4.": ("3/4", "3/4", "3/4"),
    "= 48/2": ("24", "24", "24"),
    "1,500/2": ("750", "750", "750"),
    "$3/4$": ("3/4", "3/4", "3/4"),
    "$3/4": ("3/4", "3/4", "3/4"),
    r"$\frac{3}{4}$": ("3/4", "3/4", "3/4"),
    r"-\dfrac{3}{4}": ("-3/4", "-3/4", "-3/4"),
    r"\frac{-3}{4}": ("-3/4", "-3/4", "-3/4"),
    r"\frac{1,500}{2}": ("750", "750", "750"),
    r"\frac{x}{4}": ("4", "4", "4"),
    r"\frac12": ("1/2", "1/2", "1/2"),
    r"\dfrac 3{4}": ("3/4", "3/4", "3/4"),
    r"\frac123": ("123", "123", "123"),
    r"\frac{3}{4}100": (None, "3/4", "100"),
    r"\frac{3}{0}": (None, "3", "0"),
    # A whole number, one space and a fraction are one number.
    "1 1/2": ("3/2", "3/2", "3/2"),
    "-1 1/2": ("-3/2", "-3/2", "-3/2"),
    "1 1/2 cups": ("3/2", "3/2", "3/2"),
    r"1\frac{1}{2}": ("3/2", "3/2", "3/2"),
    r"1 \frac{1}{2}": ("3/2", "3/2", "3/2"),
    "1-1/2": (None, "1", "1/2"),
    "1.5 1/2": (None, "1.5", "1/2"),
    "2: 1/2": (None, "2", "1/2"),
    "1/2 1/2": (None, "1/2", "1/2"),
    "12/31/2024": (None, "12", "2024"),
    "12 / 31 / 2024": (None, "12", "2024"),
    "1/2/3/4": (None, "1", "4"),
    "3/4.5": (None, "3", "4.5"),
    "2.5/4": (None, "2.5", "4"),
    "3/0": (None, "3", "0"),
    "1/0": (None, "1", "0"),
    "1/00": (None, "1", "0"),
    "0/1": ("0", "0", "0"),
    "1/٠": (None, None, None),
    "٣": ("3", "3", "3"),
    "3/\n4": (None, "3", "4"),
    r"\$5": ("5", "5", "5"),
    r"-\$5": ("-5", "-5", "-5"),
    r"18\%": ("18", "18", "18"),
    "1{,}000": ("1000", "1000", "1000"),
    r"1\,000": ("1000", "1000", "1000"),
    r"18\,\text{cm}": ("18", "18", "18"),
    "1e3": (None, "1", "3"),
    "- 5": ("5", "5", "5"),
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
    # Typography: what a person reads, or nothing.
    "1½": ("3/2", "3/2", "3/2"),
    "2½ cups": ("5/2", "5/2", "5/2"),
    "2 ½ cups": ("5/2", "5/2", "5/2"),
    "-1½": ("-3/2", "-3/2", "-3/2"),
    "1½300": (None, "3/2", "300"),
    "1⁄2": ("1/2", "1/2", "1/2"),
    "10²": ("100", "100", "100"),
    "10²500": (None, "100", "500"),
    "1.5²": ("9/4", "9/4", "9/4"),
    "10^2": ("100", "100", "100"),
    "1,000^{2}": ("1000000", "1000000", "1000000"),
    "10^{-2}": ("1/100", "1/100", "1/100"),
    "0^-2": (None, None, None),
    "10^999": (None, None, None),
    "9" * 5000 + "^0": (None, None, None),
    "10^2.5": (None, "10", "2.5"),
    "18 m²": ("18", "18", "18"),
    "18 m^2": ("18", "18", "18"),
    r"18\text{ m}^2": ("18", "18", "18"),
    "x^2 = 16": ("16", "16", "16"),
    "–5": ("-5", "-5", "-5"),
    "－5": ("-5", "-5", "-5"),
    "\u20115": ("-5", "-5", "-5"),
    "-\u200e5": ("-5", "-5", "-5"),
    "\u200f-5": ("-5", "-5", "-5"),
    "1\u200b000": ("1000", "1000", "1000"),
    "10–15": (None, "10", "15"),
    "20 -5": (None, "20", "5"),
    "20 –$5": (None, "20", "5"),
    "20 dollars, -5": (None, "20", "-5"),
    "1 000": ("1000", "1000", "1000"),
    "12 034 500": ("12034500", "12034500", "12034500"),
    "1\u202f500": ("1500", "1500", "1500"),
    "1\xa0500 000": ("1500000", "1500000", "1500000"),
    "1'000": ("1000", "1000", "1000"),
    "1’234’567.5": ("1234567.5", "1234567.5", "1234567.5"),
    "1 500": ("1500", "1500", "1500"),
    "12 200-kilobyte videos": (None, "12", "200"),
    "2 50 ml bottles": (None, "2", "50"),
    "6'10": (None, "6", "10"),
    "In 1999 000": (None, "1999", "0"),
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
    "as asked": ("<reasoning>2+2=4</reasoning>\n<answer>4</answer>", "4", "4", True),
    "white space around": ("\n <reasoning>1+1=2</reasoning>\n\t<answer>\n4\n</answer> \n", "4", "4", True),
    "decorated number": ("<reasoning>1+1=2</reasoning><answer>$1,234.50 each</answer>", "1234.5", "1234.5", True),
    "empty blocks": ("<reasoning></reasoning><answer></answer>", None, None, False),
    "empty reasoning": ("<reasoning></reasoning><answer>4</answer>", "4", "4", False),
    "empty answer": ("<reasoning>1+1=2</reasoning><answer></answer>", None, "2", False),
    "reasoning that is only a number": ("<reasoning>2</reasoning><answer>4</answer>", "4", "4", False),
    "a sentence": ("<reasoning>Both of them have two eggs each.</reasoning><answer>4</answer>", "4", "4", True),
    "no number in the block": ("<reasoning>1+1=2</reasoning><answer>two</answer>", None, "2", False),
    "two numbers in the block": ("<reasoning>1+1=2</reasoning><answer>4 or 5</answer>", None, "5", False),
    "text before": ("Sure! <reasoning>1+1=2</reasoning><answer>4</answer>", "4", "4", False),
    "text between": ("<reasoning>1+1=2</reasoning> so <answer>4</answer>", "4", "4", False),
    "text after": ("<reasoning>1+1=2</reasoning>\n<answer>4</answer>\nChecked 5 times.", "4", "5", False),
    "blocks in the wrong order": ("<answer>4</answer><reasoning>1+1=2</reasoning>", "4", "2", False),
    "tags in the wrong order": ("</reasoning>2<reasoning></answer>4<answer>", None, "4", False),
    "answer repeated": ("<reasoning>1+1=2</reasoning><answer>4</answer><answer>5</answer>", "5", "5", False),
    "reasoning repeated": (
        "<reasoning>1+1=2</reasoning><reasoning>1+2=3</reasoning><answer>4</answer>",
        "4",
        "4",
        False,
    ),
    "answer never closed": ("<reasoning>1+1=2</reasoning><answer>4", None, "4", False),
    "last answer never closed": ("<reasoning>1+1=2</reasoning><answer>4</answer><answer>5", "4", "5", False),
    "reasoning never closed": ("<reasoning>1+1=2<answer>4</answer>", "4", "4", False),
    "answer closed twice": ("<reasoning>1+1=2</reasoning><answer>4</answer> or 5</answer>", "4", "5", False),
    "answer nested": ("<reasoning>1+1=2</reasoning><answer><answer>4</answer></answer>", "4", "4", False),
    "answer inside the reasoning": ("<reasoning>1+1=2<answer>4</answer></reasoning>", "4", "4", False),
    "tags in capitals": ("<REASONING>2</REASONING><ANSWER>4</ANSWER>", None, "4", False),
    "hashes": ("2+2=4\n#### 4\nThat was question 5.", "4", "5", False),
    "hashes repeated": ("#### 4\n#### 5", "5", "5", False),
    "block before hashes": ("<answer>4</answer>\n#### 5", "4", "5", False),
    "empty block before hashes": ("<answer></answer>\n#### 5", None, "5", False),
    "hashes before a token": ("2+2=4\n#### 4<|im_end|>", "4", "4", False),
    "fraction": ("<reasoning>1+1=2</reasoning><answer>3/4</answer>", "3/4", "3/4", True),
    "fraction last": ("So it is 3/4 of the cake.", None, "3/4", False),
    "number, then a date": ("18 on 12/31/2024", None, "2024", False),
    "number alone": ("4", None, "4", False),
    "nothing": ("", None, None, False),
}


@pytest.mark.parametrize("what", COMPLETIONS)
def test_a_completion_is_read_strictly_and_flexibly(what):
    completion, strict, flexible, has_format = COMPLETIONS[what]
    assert answers.strict(completion, TAGS) == number(strict)
    assert answers.flexible(completion) == number(flexible)
    assert answers.has_format(completion, TAGS) is has_format


# what: completion, the box's number, what the cascade reads
CASCADES = {
    "box, tags and another number": (r"\boxed{3} <answer>4</answer> 5", "3", "3"),
    "box after the tags": (r"<answer>4</answer> so $\boxed{3}$", "3", "3"),
    "box in the tags": (r"<answer>\boxed{4}</answer> 5", "4", "4"),
    "tags without a box": ("<answer>4</answer> 5", None, "4"),
    "hashes, which the published cascade does not know": ("#### 4\nThat was question 5.", None, "5"),
    "last number alone": ("4 and 5", None, "5"),
    "nothing": ("eighteen", None, None),
    "empty": ("", None, None),
    "the published example": (r"$\boxed{12}$", "12", "12"),
    "two boxes": (r"\boxed{12} or \boxed{13}", "13", "13"),
    "box never closed": (r"\boxed{12} or \boxed{13", "12", "12"),
    "only box never closed": (r"<answer>4</answer> \boxed{13", None, "4"),
    "box without a number": (r"\boxed{\text{none}} <answer>4</answer>", None, "4"),
    "box with two numbers": (r"\boxed{3 \text{ or } 4} <answer>5</answer>", None, "5"),
    "empty box": (r"4 \boxed{}", None, "4"),
    "box with braces": (r"\boxed{\text{about }\frac{3}{4}\text{ of }\$1{,}000}", None, "1000"),
    "fraction in a box": (r"\boxed{\frac{3}{4}}", "3/4", "3/4"),
    "fraction deep in a box": (r"\boxed{\text{about {\frac{3}{4}}}} 5", "3/4", "3/4"),
    "braces deeper than boxes are read": (r"\boxed{{{{{4}}}}} 5", None, "5"),
    "box in a box": (r"\boxed{\boxed{4}} 5", "4", "4"),
    "units in a box": (r"\boxed{\$18.50 \text{ dollars}} 5", "18.5", "18.5"),
    "equation in a box": (r"\boxed{x = -7} 5", "-7", "-7"),
    "space before the brace": (r"\boxed {4} 5", "4", "4"),
    "an exponent of a unit in a box": (r"\boxed{18\text{ m}^2} 5", "18", "18"),
    "a power in a box": (r"\boxed{10^{2}} 5", "100", "100"),
    "no box": ("boxed{4} 5", None, "5"),
    "numbers in the tags": ("<answer>4 or 5</answer> 6", None, "6"),
    "tags in the wrong order": ("</answer>4<answer> 6", None, "6"),
}


@pytest.mark.parametrize("what", CASCADES)
def test_the_cascade_reads_the_box_then_the_tags_then_the_last_number(what):
    completion, box, cascade = CASCADES[what]
    assert answers.boxed(completion) == number(box)
    assert answers.readings(completion, TAGS)[2] == number(cascade)


def test_the_last_number_of_gsm8ks_solutions_is_mostly_the_gold_answer(published):
    right = rows = 0
    for split in ("train", "test"):
        lines = (published / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        for row in gsm8k.normalise_rows([json.loads(line) for line in lines], split, split):
            rows += 1
            right += answers.flexible(gsm8k.strip_annotations(row["solution"])) == answers.gold_number(row["answer"])
    assert (rows, right) == (8792, 8550)


def test_a_gold_answer_keeps_the_writing_of_its_data_set():
    row = {"answer": "1000", "answer_as_published": "1,000"}
    assert answers.gold_of(row) == 1000 and answers.gold_text(answers.gold_of(row)) == "1,000"
    exchanged = answers.gold_of(row | {"answer": "18"})
    assert exchanged == 18 and answers.gold_text(exchanged) == "18"
    assert answers.gold_text(Fraction(5, 2)) == "2.5"


def test_tags_are_the_recipes_own():
    tags = Tags("<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>")
    completion = "<start_working_out>2+2=4<end_working_out><SOLUTION>4</SOLUTION>"
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


@given(*[st.fractions(-200, 200, max_denominator=40)] * 2, st.fractions(0, 2, max_denominator=20))
def test_within_is_the_definition(guess, gold, tolerance):
    assert answers.within(guess, gold, tolerance) is (abs(guess - gold) <= tolerance * abs(gold))


MARKS = ["1,000", "####", "٣", "٠", "²", "⁰", "½", "⁄", "–", "\u200e", "'", "’000", " 000", "\xa0", "^", "^2", "^{"]
MARKS += [r"\boxed{", r"\frac{1}{2}", r"\frac{", r"\$", "{,}", " 1/2"]
FRAGMENTS = st.sampled_from([*"0159.,-−$%/*=# \n<x{}\\", *MARKS, *TAGS.all()])


@given(st.one_of(st.text(), st.lists(FRAGMENTS, max_size=40).map("".join)))
def test_no_text_raises_and_the_readings_agree(text):
    first, last, whole = answers.first_number(text), answers.flexible(text), answers.parse_number(text)
    if whole is not None:
        assert first == last == whole
    assert isinstance(answers.calculations(text), list)
    every = list(answers.NUMBER.finditer(answers._normalised(text)))
    assert first == (answers._value(every[0]) if every else None)
    assert last == (answers._value(every[-1]) if every else None)
    (*others, cascade), box = answers.readings(text, TAGS), answers.boxed(text)
    assert cascade == box if box is not None else cascade is not None or last is None
    assert others == [answers.strict(text, TAGS), last]
    if answers.has_format(text, TAGS):
        assert answers.answer_block(text, TAGS) is not None
    block = answers.answer_block(text, TAGS)
    if block is not None:
        assert TAGS.answer_start not in block and TAGS.answer_end not in block
        assert answers.strict(text, TAGS) == answers.parse_number(block)


@settings(max_examples=60)
@given(st.lists(FRAGMENTS, min_size=1, max_size=4).map("".join), st.lists(FRAGMENTS, max_size=3).map("".join))
def test_whatever_is_repeated_is_read_in_linear_time(repeated, end):
    text = repeated * (30_000 // len(repeated)) + end
    started = time.process_time()
    answers.calculations(text), answers.readings(text, TAGS), answers.boxed(rf"\boxed{{{text}}}")
    answers.strict(text, TAGS), answers.strict(f"<answer>{text}</answer>", TAGS), answers.has_format(text, TAGS)
    answers.has_format(f"<reasoning>{text}</reasoning><answer>4</answer>", TAGS), Reasoning(10**9).is_in(text)
    published_cascade.read(text, TAGS)
    answers.first_number(text)
    assert time.process_time() - started < 2  # seconds: 0.05 if linear, more than 10 if quadratic


READ_ALL = """
import sys
from gsm8k_grpo.rewards import answers, published_cascade
tags = answers.Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
text = sys.argv[1] * (int(sys.argv[3]) // len(sys.argv[1])) + sys.argv[2]
answers.first_number(text), answers.flexible(text), answers.has_format(text, tags)
answers.strict(text, tags), answers.strict(f"<answer>{text}</answer>", tags)
answers.has_format(f"<reasoning>{text}</reasoning><answer>4</answer>", tags)
answers.Reasoning(10**9, 10**9).is_in(text)
published_cascade.read(text, tags), published_cascade.read(f"<answer>{text}", tags)
answers.readings(text, tags), answers.readings(f"\\boxed{{{text}}}", tags), answers.calculations(text)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repeated", "end"),
    [
        ("1", ""),
        ("1,", ""),
        ("000,", "0"),
        ("000 ", "0"),
        ("1'", ""),
        ("1^", ""),
        ("1", "^2"),
        ("000,", "^2"),
        ("2^9 ", ""),
        ("9^99 ", ""),
        ("1½", ""),
        ("²", ""),
        ("1.", ""),
        ("1 ", "/"),
        ("1 1/", "x"),
        ("1 / ", ""),
        ("1 + ", "= 2"),
        ("1 a ", "= 2"),
        ("1/3 * 1/7 * ", "1 = 2"),
        ("1..$", "+ 2"),
        ("0", "/0"),
        ("1/0", ""),
        ("{", ""),
        ("\\boxed{", ""),
        ("\\boxed{{}", ""),
        ("{,}", "1"),
        (" ", "1"),
        ("-", ""),
        ("<<<<", ""),
        ("#", ""),
        ("<answer>", ""),
        ("$\\boxed{", ""),
        ("$\\boxed{1}", ""),
        ("1+1", ""),
        ("1 a ", ""),
        ("a'", ""),
    ],
)
def test_a_megabyte_is_read_in_linear_time(root, repeated, end):
    """In a process of its own, so that a slow pattern fails instead of hanging the tests."""
    read_all(root, repeated, end, 1_000_000)


@pytest.mark.slow
def test_megabytes_of_latex_are_read_in_linear_time(root):
    """Copying the text before each fraction would take quadratic time."""
    read_all(root, "\\frac{1}{2}", "", 2_000_000)


def read_all(root, repeated, end, characters):
    command = [sys.executable, "-c", READ_ALL, repeated, end, str(characters)]
    subprocess.run(command, cwd=root / "scripts", check=True, timeout=20)
