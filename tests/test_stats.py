"""Intervals and tests against published and hand-calculated values."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsm8k_grpo import stats


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_newcombe_1998(successes, n, low, high):
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    rate = stats.rate(successes, n)
    assert (rate["value"], rate["n"]) == (successes / n, n)
    assert (rate["low"], rate["high"]) == pytest.approx((low, high), abs=5e-5)


def rows(both=0, fixed=0, broken=0, neither=0):
    """Verdicts before and after, with so many rows of each kind."""
    before = [True] * both + [False] * fixed + [True] * broken + [False] * neither
    after = [True] * both + [True] * fixed + [False] * broken + [False] * neither
    return before, after


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [
        (8, 1, Fraction(2 * (1 + 9), 2**9)),
        (1, 8, Fraction(2 * (1 + 9), 2**9)),
        (5, 0, Fraction(2, 2**5)),
        (12, 2, Fraction(2 * (1 + 14 + 91), 2**14)),
        (3, 3, Fraction(1)),
        (0, 0, Fraction(1)),
    ],
)
def test_mcnemars_exact_p_is_the_binomial_tail_of_the_changed_rows(fixed, broken, p):
    found = stats.paired(*rows(both=4, fixed=fixed, broken=broken, neither=7))
    assert found["mcnemar_p"] == pytest.approx(float(p), rel=1e-12)


def test_the_approval_ratings_of_agresti():
    """Agresti, Categorical Data Analysis, section 10.1: 1,600 Britons asked twice; difference 0.04, s.e. 0.0095."""
    found = stats.paired(*rows(both=794, fixed=150, broken=86, neither=570))
    assert [found[key] for key in ("both", "fixed", "broken", "neither", "n")] == [794, 150, 86, 570, 1600]
    assert found["difference"]["value"] == pytest.approx(0.04)
    # By hand: (150.5 - 86.5) / 1602 ± 1.959964 √(237 - 64² / 1602) / 1602.
    assert found["difference"]["low"] == pytest.approx(0.021217, abs=1e-6)
    assert found["difference"]["high"] == pytest.approx(0.058683, abs=1e-6)
    assert found["mcnemar_p"] == pytest.approx(3.716e-05, rel=1e-3)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_swapping_before_and_after_turns_the_difference_round(pairs):
    before, after = map(list, zip(*pairs, strict=True))
    there, back = stats.paired(before, after), stats.paired(after, before)
    assert there["difference"]["value"] == -back["difference"]["value"]
    assert there["difference"]["low"] == pytest.approx(-back["difference"]["high"])
    assert (there["fixed"], there["mcnemar_p"]) == (back["broken"], back["mcnemar_p"])
    assert -1 <= there["difference"]["low"] <= there["difference"]["high"] <= 1
    assert there["both"] + there["fixed"] + there["broken"] + there["neither"] == len(pairs)


def test_verdicts_on_different_rows_are_refused():
    with pytest.raises(ValueError):
        stats.paired([True], [True, False])
