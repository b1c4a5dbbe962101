"""Rates, intervals and tests, built on SciPy. Rates and differences are shares from 0 to 1; intervals are 95 %.

Importing `scipy.stats` takes half a second, a half of what most stages take: only the functions that need it do.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from scipy import special

from gsm8k_grpo.common.errors import PipelineError

SIGNIFICANT = 0.05  # a p below it
QUANTILE = float(special.ndtri(0.975))  # of the normal distribution


def _require_rows(n: int) -> None:
    if n < 1:
        raise PipelineError("evaluation.rows: no rows were evaluated, so there is no rate; evaluate at least one")


def wilson_rate(successes: int, n: int) -> dict:
    """A rate with its 95 % Wilson score interval (Wilson 1927): `value`, `low`, `high`, `n`.

    Raises:
      PipelineError: `n` is 0.
    """
    _require_rows(n)
    share, z2 = successes / n, QUANTILE**2
    scale = 2 * (n + z2)
    centre = (2 * n * share + z2) / scale
    half = QUANTILE / scale * math.sqrt(4 * n * share * (1 - share) + z2)
    # Rounding would leave noise where the bound is exactly 0 or 1.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return {"value": share, "low": low, "high": high, "n": n}


def independent_difference(before: Mapping, after: Mapping) -> dict:
    """The difference of two rates of independent rows, with its 95 % interval: `value`, `low`, `high`.

    The interval is Newcombe's from the two Wilson intervals (1998, Statistics in Medicine 17, 873-890, method 10). Of
    the same rows, whose verdicts usually agree, it is wider than a paired one (`paired_comparison`).

    Args:
      before, after: of `wilson_rate`.
    """
    value = after["value"] - before["value"]
    return {
        "value": value,
        "low": value - math.hypot(after["value"] - after["low"], before["high"] - before["value"]),
        "high": value + math.hypot(after["high"] - after["value"], before["value"] - before["low"]),
    }


def _upper_difference(fixed: int, broken: int, n: int) -> float:
    """Upper 95 % limit of a paired difference (Tango 1998, Statistics in Medicine 17, 891-908).

    This is the largest difference δ that the score test does not reject:
    (fixed - broken - nδ)² ≤ z² n (2q + δ(1 - δ)). Here q is the share of broken rows that is most likely under δ, the
    larger root of 2n q² + ((2n - fixed + broken) δ - fixed - broken) q - broken δ (1 - δ) = 0. We use bisection because
    a root finder needs a sign change at its ends, which tables without fixed or broken rows do not have.
    """
    inside, outside = (fixed - broken) / n, 1.0
    for _ in range(60):
        middle = (inside + outside) / 2
        b = (2 * n - fixed + broken) * middle - fixed - broken
        c = -broken * middle * (1 - middle)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        if (fixed - broken - n * middle) ** 2 <= QUANTILE**2 * n * (2 * q + middle * (1 - middle)):
            inside = middle
        else:
            outside = middle
    return outside


def paired_comparison(before: list[bool], after: list[bool]) -> dict:
    """Verdicts on the same rows before and after: 2 × 2 table, difference with interval, exact McNemar test.

    Args:
      before: for each row, whether it was right before training.
      after: the same rows after training.

    Returns:
      `both`, `fixed`, `broken`, `neither`, `n` (rows), `difference` (`value`, `low`, `high`: Tango's score interval,
      see `_upper_difference`), `mcnemar_p` (exact, two-sided: a binomial test of the changed rows) and
      `smallest_difference` (see there; at the observed share of changed rows). The interval inverts McNemar's test
      without its exactness, so it can leave out 0 where p is just above 0.05: p decides.

    Raises:
      PipelineError: there are no rows.
      ValueError: the numbers of rows differ.
    """
    table = {"both": 0, "fixed": 0, "broken": 0, "neither": 0}
    for first, second in zip(before, after, strict=True):
        table["both" if first and second else "broken" if first else "fixed" if second else "neither"] += 1
    n, fixed, broken = len(before), table["fixed"], table["broken"]
    _require_rows(n)
    from scipy import stats as scipy_stats

    p = scipy_stats.binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    return {
        **table,
        "n": n,
        "difference": {
            "value": (fixed - broken) / n,
            "low": -_upper_difference(broken, fixed, n),
            "high": _upper_difference(fixed, broken, n),
        },
        "mcnemar_p": float(p),
        "smallest_difference": smallest_difference(n, (fixed + broken) / n),
    }


def smallest_difference(n: int, discordant_rate: float, alpha: float = SIGNIFICANT, power: float = 0.8) -> float | None:
    """The smallest paired difference that `n` rows show reliably.

    If training truly changes the accuracy by this much, in either direction, the exact McNemar test on `n` fresh rows
    finds it with probability `power`. It misses a smaller change more often, so "no significant change" does not rule
    one out. The power is the unconditional power of the exact test (Duffy 1984, Biometrics 40, 1005-1015): a binomial
    sum over the number of changed rows, solved for the difference. Connor's formula (1987, Biometrics 43, 207-211)
    ignores exactness and gives a few per cent less, on few rows even less.

    Args:
      n: rows.
      discordant_rate: share of rows whose verdict changes, in either direction; at least the difference itself is
        assumed, because a difference of δ needs δ of the rows to change.
      alpha: two-sided level of the test.
      power: probability of finding the difference, above `alpha`.

    Returns:
      the difference; None if even a change of all `n` rows in one direction is not significant.
    """
    if 2 * 0.5**n > alpha:
        return None
    from scipy import optimize
    from scipy import stats as scipy_stats

    changed = np.arange(n + 1)
    critical = scipy_stats.binom.ppf(alpha / 2, changed, 0.5)
    critical -= scipy_stats.binom.cdf(critical, changed, 0.5) > alpha / 2

    def missing_power(difference: float) -> float:
        share = max(discordant_rate, difference)
        fixed = 0.5 + difference / share / 2 if share else 0.5
        found = scipy_stats.binom.cdf(critical, changed, fixed) + scipy_stats.binom.cdf(critical, changed, 1 - fixed)
        return float(scipy_stats.binom.pmf(changed, n, share) @ found) - power

    return float(optimize.brentq(missing_power, 0.0, 1.0))


def holm(p_values: list[float]) -> list[float]:
    """p-values in their order, corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).

    The k-th smallest of m is multiplied by m - k + 1. None becomes smaller than the one before it, and none exceeds 1.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def mean_over_seeds(values: list[float]) -> dict:
    """Mean of a number over seeds: `value`, `sd` (of the sample), `low`, `high` (Student's t), `n` (seeds).

    All are in the unit of the values. With one seed `sd`, `low` and `high` are None.
    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return {"value": mean, "sd": None, "low": None, "high": None, "n": n}
    from scipy import stats as scipy_stats

    sd = statistics.stdev(values)
    half = float(scipy_stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"value": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that `k` of a row's `n` samples, drawn without replacement, hold a right one; `c` of `n` are right.

    This is the unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1). The binomials
    are exact integers and divided once, so nothing cancels or overflows.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples, {c} of them right, does not exist: 0 ≤ c ≤ n and 1 ≤ k ≤ n")
    return (math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k)


def pass_at_k_rate(counts: list[tuple[int, int]], k: int) -> dict:
    """pass@k over rows: `value`, `low`, `high`, `n` (rows).

    Each row is one observation, however many samples it has (Miller 2024, arXiv 2411.00640), so the interval is over
    rows: Student's t of their estimates, cut to 0 to 1. If every estimate is 0 or 1, as with k of k samples, they are
    verdicts and the interval is Wilson's. `low` and `high` are None for a single row with another estimate.

    Args:
      counts: for each row its number of samples and of right samples.
      k: samples drawn.

    Raises:
      PipelineError: there are no rows.
      ValueError: a row has fewer than `k` samples.
    """
    estimates = [pass_at_k(n, c, k) for n, c in counts]
    if all(estimate in (0, 1) for estimate in estimates):
        return wilson_rate(int(sum(estimates)), len(estimates))
    mean = mean_over_seeds(estimates)
    low, high = (None, None) if mean["low"] is None else (max(0.0, mean["low"]), min(1.0, mean["high"]))
    return {"value": mean["value"], "low": low, "high": high, "n": mean["n"]}


def majority(readings: list[Fraction | None]) -> Fraction | None:
    """The reading that most of a row's samples share (maj@k; Wang et al. 2022, arXiv 2203.11171); None without any.

    Numbers are compared as exact values, and a sample without a reading does not vote. Of readings with equally many
    votes the first sampled wins, as in lm-evaluation-harness.
    """
    votes = Counter(reading for reading in readings if reading is not None)
    return votes.most_common(1)[0][0] if votes else None
