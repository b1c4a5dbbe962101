"""Calculations in a text, and whether they are true."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsm8k_grpo.rewards import answers

# text: its calculations, each the result and whether it is true
CALCULATIONS = {
    "48 / 2 = 24. 48 + 24 = 72.": [("24", True), ("72", True)],
    "10*2=20\n20-4=17": [("20", True), ("17", False)],
    "He sold 48/2 = <<48/2=24>>24 clips": [("24", True)],
    "$5 * 3 = $15": [("15", True)],
    "5 × 3 = 15, 5 x 3 = 15, 5x3=15, 5·3 = 15": [("15", True)] * 4,
    "15 ÷ 3 = 5": [("5", True)],
    r"$5 \times 3 = 15$ and $15 \div 3 = \frac{10}{2}$": [("15", True), ("5", True)],
    "3 * 5 = **15**": [("15", True)],
    "1,000 + 500 = 1,500": [("1500", True)],
    "60 / 1.5 = 40": [("40", True)],
    "1 1/2 * 2 = 3": [("3", True)],
    "-5 + 3 = -2, 5 -3 = 2, 5 - -3 = 8, 7 − 5 = 2": [("-2", True), ("2", True), ("8", True), ("2", True)],
    "2 + 3 * 4 = 14": [("14", True)],
    "12 - 4 - 3 = 5 and 16 / 4 / 2 = 2": [("5", True), ("2", True)],
    "10 / 3 = 3.33": [("3.33", False)],
    "5 / 0 = 0": [("0", False)],
    "1 + 1 = 5 / 0": [(None, False)],
    "16 eggs - 3 - 4 = 9 eggs": [("9", True)],
    "9 eggs/day * $2/egg = $18/day": [("18", True)],
    "16 - 3 - 4 = 13 - 4 = 9": [("9", True), ("9", True)],
    "2 + 3 = 5 * 2 = 10": [("10", True), ("10", True)],
    "6 * 3 = 18/2 = 9": [("9", True), ("9", True)],
    "5 + 3 = 8 - 2": [("6", True)],
    "5 + 3 = 9 - 2": [("7", False)],
    "- 3 * 4 = 12\n- 48 / 2 = 24": [("12", True), ("24", True)],
    "1. 48 / 2 = 24": [("24", True)],
    "Step 2: 3 * 4 = 12": [("12", True)],
    # No calculation, or one that is not read.
    "72 = 48 + 24": [],
    "x = 3": [],
    "3 + 4": [],
    "3 + 4 =\n7": [],
    "12/31/2024": [],
    "(3 + 4) * 2 = 14": [],
    "(2) + 3 * 4 = 14": [],
    "x + 3 * 4 = 14": [],
    "50 * 20% = 10": [],
    "9" * 401 + " + 1 = 5": [],
    "1 + " * 40 + "1 = 41": [],
    "": [],
}


@pytest.mark.parametrize("text", CALCULATIONS, ids=lambda text: text[:20] or "empty")
def test_calculations_are_found_and_checked(text):
    expected = [answers.Calculation(result and Fraction(result), is_true) for result, is_true in CALCULATIONS[text]]
    assert answers.calculations(text) == expected


@given(st.lists(st.sampled_from("+-*/"), min_size=1, max_size=6), st.lists(st.integers(1, 99), min_size=7, max_size=7))
def test_a_calculation_is_true_exactly_where_python_says_so(operators, values):
    written = list(zip(operators, values[1:], strict=False))
    value = eval(f"Fraction({values[0]})" + "".join(f"{operator}Fraction({each})" for operator, each in written))
    left = f"{values[0]} " + " ".join(f"{operator} {each}" for operator, each in written)
    (right,), (wrong,) = (answers.calculations(f"{left} = {answers.plain(each)}") for each in (value, value + 1))
    assert right == answers.Calculation(value, True) and wrong == answers.Calculation(value + 1, False)
