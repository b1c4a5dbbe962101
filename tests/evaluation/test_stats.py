"""Intervals and tests agree with published values and with calculations by hand."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.evaluation import stats


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_newcombe_1998(successes, n, low, high):
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    rate = stats.wilson_rate(successes, n)
    assert (rate["value"], rate["n"]) == (successes / n, n)
    assert (rate["low"], rate["high"]) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 7, 20, 300, 1319])
def test_wilson_intervals_are_scipys_to_the_bit(n):
    for successes in range(1, n):
        interval = scipy_stats.binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
        rate = stats.wilson_rate(successes, n)
        assert (rate["low"], rate["high"]) == (interval.low, interval.high)
    assert scipy_stats.norm.ppf(0.975) == stats.QUANTILE


@pytest.mark.parametrize(
    ("after", "before", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_independent_differences_of_newcombe_1998(after, before, low, high):
    """Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10."""
    found = stats.independent_difference(stats.wilson_rate(*before), stats.wilson_rate(*after))
    assert found["value"] == pytest.approx(after[0] / after[1] - before[0] / before[1])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 2000), st.integers(1, 2000))
def test_an_interval_contains_its_rate_and_ends_at_0_and_1_exactly(successes, n):
    successes = min(successes, n)
    rate = stats.wilson_rate(successes, n)
    assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
    assert (rate["low"] == 0, rate["high"] == 1) == (successes == 0, successes == n)
    mirrored = stats.wilson_rate(n - successes, n)
    assert (mirrored["low"], mirrored["high"]) == pytest.approx((1 - rate["high"], 1 - rate["low"]))


def test_no_rows_are_an_error():
    for nothing in (
        lambda: stats.wilson_rate(0, 0),
        lambda: stats.paired_comparison([], []),
        lambda: stats.pass_at_k_rate([], 1),
    ):
        with pytest.raises(PipelineError, match="no rows were evaluated"):
            nothing()


def rows(both=0, fixed=0, broken=0, neither=0):
    """Verdicts before and after, with the given number of rows of each outcome."""
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
    found = stats.paired_comparison(*rows(both=4, fixed=fixed, broken=broken, neither=7))
    assert found["mcnemar_p"] == pytest.approx(float(p), rel=1e-12)


def test_the_approval_ratings_of_agresti():
    """Agresti, Categorical Data Analysis, section 10.1: 1,600 Britons asked twice: 0.04, Wald 0.02 to 0.06.

    The exact p-value is as R's `exact2x2` (Fay 2010, R Journal 2(1), 53-58) prints it.
    """
    found = stats.paired_comparison(*rows(both=794, fixed=150, broken=86, neither=570))
    assert [found[key] for key in ("both", "fixed", "broken", "neither", "n")] == [794, 150, 86, 570, 1600]
    assert found["difference"]["value"] == pytest.approx(0.04)
    assert [round(found["difference"][key], 2) for key in ("low", "high")] == [0.02, 0.06]
    assert found["mcnemar_p"] == pytest.approx(3.716e-05, rel=1e-3)


@pytest.mark.parametrize(
    ("table", "low", "high", "digits"),
    [
        # Cavo et al. 2012 in Fagerland, Lydersen & Laake, Statistical Analysis of Contingency Tables, chapter 8, as
        # their package `contingencytables` prints it.
        ({"both": 59, "broken": 6, "fixed": 16, "neither": 80}, 0.0054, 0.1240, 4),
        # Chang et al. 2022, "Continuity corrected score confidence interval for the difference in proportions in
        # paired data" (PMC10763857).
        ({"both": 7, "fixed": 25, "broken": 2, "neither": 68}, 0.139, 0.321, 3),
    ],
)
def test_published_intervals_of_tango(table, low, high, digits):
    difference = stats.paired_comparison(*rows(**table))["difference"]
    assert (round(difference["low"], digits), round(difference["high"], digits)) == (low, high)


def test_the_published_exact_p_of_a_table_that_nearly_changed():
    """Fagerland, Lydersen & Laake 2013, BMC Medical Research Methodology 13:91, and their book, chapter 8."""
    found = stats.paired_comparison(*rows(both=59, broken=6, fixed=16, neither=80))
    assert found["mcnemar_p"] == pytest.approx(0.052479, abs=5e-7)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40))
def test_the_interval_has_the_limits_of_the_quartic_of_yang_sun_and_hardin(fixed, broken, same):
    """Yang, Sun & Hardin 2013, Statistics in Medicine 32, 1336-1342: Tango's limits are roots of a polynomial."""
    n, g, d, changed = fixed + broken + same, stats.QUANTILE**2, fixed - broken, fixed + broken
    if n == 0:
        return
    quartic = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (changed / g + 1),
        n * d * (2 * changed / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - changed) / g,
    ]
    difference = stats.paired_comparison(*rows(fixed=fixed, broken=broken, neither=same))["difference"]
    for limit in (difference["low"], difference["high"]):
        assert min(abs(np.roots(quartic) - limit)) < 1e-5
    # At 0 the score test is McNemar's χ² without correction (Tango 1998).
    assert (difference["low"] <= 0 <= difference["high"]) == (d**2 <= g * changed)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_swapping_before_and_after_inverts_the_difference(pairs):
    before, after = map(list, zip(*pairs, strict=True))
    there, back = stats.paired_comparison(before, after), stats.paired_comparison(after, before)
    assert there["difference"]["value"] == -back["difference"]["value"]
    assert there["difference"]["low"] == pytest.approx(-back["difference"]["high"])
    assert (there["fixed"], there["mcnemar_p"]) == (back["broken"], back["mcnemar_p"])
    assert there["smallest_difference"] == back["smallest_difference"]
    assert -1 <= there["difference"]["low"] <= there["difference"]["value"] <= there["difference"]["high"] <= 1
    assert 0 <= there["mcnemar_p"] <= 1
    assert there["both"] + there["fixed"] + there["broken"] + there["neither"] == len(pairs)


def test_verdicts_on_different_rows_are_refused():
    with pytest.raises(ValueError):
        stats.paired_comparison([True], [True, False])


def test_the_published_power_of_the_exact_test():
    """G*Power 3.1 manual, chapter 5 (O'Brien 2002): 50 pairs, 0.4 discordant, odds ratio 0.25, one-sided 5 %.

    Its power is 0.839343 there. 0.08 and 0.32 of the pairs are a difference of 0.24; of a two-sided test at 10 %, the
    other side finds next to none.
    """
    assert stats.smallest_difference(50, 0.4, alpha=0.1, power=0.839343) == pytest.approx(0.24, abs=2e-5)


@pytest.mark.parametrize(("n", "discordant_rate"), [(6, 0.1), (10, 0.7), (13, 0.95)])
def test_the_exact_test_finds_the_smallest_difference_in_four_of_five_tries(n, discordant_rate):
    """Sums over all tables, with SciPy's p-value of each."""
    smallest = stats.smallest_difference(n, discordant_rate)
    share = max(discordant_rate, smallest)
    fixed, broken = (share + smallest) / 2, (share - smallest) / 2
    found = sum(
        scipy_stats.multinomial.pmf((up, down, n - up - down), n, (fixed, broken, 1 - fixed - broken))
        for up in range(n + 1)
        for down in range(n + 1 - up)
        if up + down and scipy_stats.binomtest(up, up + down).pvalue <= 0.05
    )
    assert found == pytest.approx(0.8, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "discordant_rate", "difference"), [(155, 0.45, 0.15), (600, 0.1, None), (600, 0.3, None), (1319, 0.2, None)]
)
def test_large_samples_need_the_rows_of_connor(n, discordant_rate, difference):
    """Connor 1987, p. 209: (1.96 √ψ + 0.8416 √(ψ - δ²))² / δ² pairs; 155 for ψ = 0.45 and δ = 0.15.

    The formula ignores exactness; the exact test needs some more rows.
    """
    smallest = stats.smallest_difference(n, discordant_rate)
    spread = 1.96 * math.sqrt(discordant_rate) + 0.8416 * math.sqrt(discordant_rate - smallest**2)
    assert 0.92 * n < (spread / smallest) ** 2 < n
    if difference:
        assert difference < smallest < 1.04 * difference


def test_the_smallest_difference_of_few_rows_by_hand():
    """Five rows cannot reach p < 0.05 (2 / 2⁵); six must all change in one direction (2 / 2⁶)."""
    assert stats.smallest_difference(5, 0.5) is None
    assert stats.paired_comparison([False] * 5, [True] * 5)["smallest_difference"] is None
    assert stats.smallest_difference(6, 0.0) == pytest.approx(0.8 ** (1 / 6))


def test_students_sleep_data():
    """Student 1908: hours of sleep gained by ten patients; R's `t.test(extra ~ group, sleep, paired = TRUE)`."""
    found = stats.mean_over_seeds([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert found["value"] == pytest.approx(1.58)
    assert round(found["sd"], 2) == 1.23
    assert (found["low"], found["high"]) == pytest.approx((0.7001142, 2.4598858), abs=5e-8)
    assert found["n"] == 10


def test_one_seed_has_no_interval():
    assert stats.mean_over_seeds([0.25]) == {"value": 0.25, "sd": None, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_the_draws_with_a_right_sample(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = [any(draw) for draw in itertools.combinations([True] * c + [False] * (n - c), k)]
        assert stats.pass_at_k(n, c, k) == sum(draws) / len(draws)


def test_pass_at_k_is_the_product_of_chen_et_al():
    """Chen et al. 2021, figure 3: 1 - Π (1 - k / i) over i from n - c + 1 to n; their n is 200 and k up to 100."""
    for c, k in itertools.product((1, 7, 60, 150), (1, 10, 100)):
        product = 1.0 if 200 - c < k else 1 - np.prod(1 - k / np.arange(200 - c + 1, 201))
        assert stats.pass_at_k(200, c, k) == pytest.approx(float(product), rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_of_impossible_counts_is_refused(n, c, k):
    with pytest.raises(ValueError, match="does not exist"):
        stats.pass_at_k(n, c, k)


def test_pass_at_k_over_rows():
    # Estimates 1/2, 1, 0, 1/2: mean 0.5, sd √(1/6), t(3) = 3.182446, so ± 0.649614.
    spread = stats.pass_at_k_rate([(4, 2), (4, 4), (4, 0), (2, 1)], 1)
    assert spread == {"value": 0.5, "low": 0.0, "high": 1.0, "n": 4}
    found = stats.pass_at_k_rate([(4, 2), (4, 4), (4, 0), (2, 1)] * 25, 1)
    # Of 100 rows: sd √(12.5 / 99), t(99) = 1.984217, so ± 0.070506.
    assert (found["low"], found["high"]) == pytest.approx((0.429494, 0.570506), abs=1e-6)
    assert stats.pass_at_k_rate([(1, 1)] * 81 + [(1, 0)] * 182, 1) == stats.wilson_rate(81, 263)
    assert stats.pass_at_k_rate([(4, 3)] * 15 + [(4, 0)] * 133, 4) == stats.wilson_rate(15, 148)
    assert stats.pass_at_k_rate([(4, 1)], 2) == {"value": 0.5, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize(
    ("readings", "winner"),
    [
        (["7", "5", "7"], "7"),
        (["1/2", None, "0.50", "3", None, None], "0.5"),
        (["5", "7", "7", "5"], "5"),
        (["7", "5", "5", "7"], "7"),
        ([None, None, "3"], "3"),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_majority_counts_exact_values_and_the_first_of_equals_wins(readings, winner):
    found = stats.majority([reading and Fraction(reading) for reading in readings])
    assert found == (winner and Fraction(winner))
