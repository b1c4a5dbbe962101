"""Statistics of the evidence, over SciPy. Rates and differences are shares from 0 to 1; intervals are 95 %."""

import math
import statistics
from collections import Counter
from fractions import Fraction

import numpy as np
from scipy import optimize
from scipy import stats as scipy_stats

from gsm8k_grpo.common.errors import PipelineError

QUANTILE = float(scipy_stats.norm.ppf(0.975))


def _need_rows(n: int) -> None:
    if n < 1:
        raise PipelineError("no rows were evaluated, so there is no rate: evaluate at least one (evaluation.rows)")


def wilson_rate(successes: int, n: int) -> dict:
    """A rate with its 95 % Wilson score interval (Wilson 1927): `value`, `low`, `high`, `n`.

    Raises:
      PipelineError: `n` is 0.
    """
    _need_rows(n)
    interval = scipy_stats.binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    # SciPy leaves rounding noise where the bound is exactly 0 or 1.
    low = 0.0 if successes == 0 else float(interval.low)
    high = 1.0 if successes == n else float(interval.high)
    return {"value": successes / n, "low": low, "high": high, "n": n}


def _upper_difference(fixed: int, broken: int, n: int) -> float:
    """Upper 95 % limit of a paired difference (Tango 1998, Statistics in Medicine 17, 891-908).

    The largest difference δ that the score test does not reject: (fixed - broken - nδ)² ≤ z² n (2q + δ(1 - δ)), where
    q, the share of broken rows that is most likely under δ, is the larger root of
    2n q² + ((2n - fixed + broken) δ - fixed - broken) q - broken δ (1 - δ) = 0. By bisection: unlike a root finder, it
    needs no sign change at its ends, which tables without fixed or broken rows do not have.
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
    """Two graders' verdicts on the same rows: 2 × 2 table, difference with interval, exact McNemar test.

    Args:
      before: right or wrong before training, a row each.
      after: the same rows after it.

    Returns:
      `both`, `fixed`, `broken`, `neither`, `n` (rows), `difference` (`value`, `low`, `high`: Tango's score interval,
      see `_upper_difference`), `mcnemar_p` (exact, two-sided: a binomial test of the rows that changed),
      `smallest_difference` (what so many rows can show at the observed share of changed rows, or None). The interval
      inverts McNemar's test without its exactness, so where p is just above 0.05 it can leave 0 out: p decides.

    Raises:
      PipelineError: there are no rows.
      ValueError: not the same number of rows.
    """
    table = {"both": 0, "fixed": 0, "broken": 0, "neither": 0}
    for first, second in zip(before, after, strict=True):
        table["both" if first and second else "broken" if first else "fixed" if second else "neither"] += 1
    n, fixed, broken = len(before), table["fixed"], table["broken"]
    _need_rows(n)
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


def smallest_difference(n: int, discordant_rate: float, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest paired difference that `n` rows can be trusted to show.

    If training truly changed the accuracy by this much, in either direction, the exact McNemar test on `n` fresh rows
    would find it with probability `power`; a smaller change goes unnoticed more often, so that "no significant change"
    does not rule it out. The power is that of the exact test itself, unconditional (Duffy 1984, Biometrics 40,
    1005-1015): a binomial sum over the number of changed rows, solved for the difference. Connor's formula (1987,
    Biometrics 43, 207-211) is of the test without exactness and gives up to a few per cent less, more on few rows.

    Args:
      n: rows.
      discordant_rate: share of rows whose verdict changes, in either direction. It is taken to be at least the
        difference itself, as a difference of δ needs δ of the rows to change.
      alpha: two-sided level of the test.
      power: probability of finding the difference, above `alpha`.

    Returns:
      The difference, or None where not even all `n` rows changed in one direction would be significant.
    """
    if 2 * 0.5**n > alpha:
        return None
    changed = np.arange(n + 1)
    critical = scipy_stats.binom.ppf(alpha / 2, changed, 0.5)
    critical -= scipy_stats.binom.cdf(critical, changed, 0.5) > alpha / 2

    def lacking(difference: float) -> float:
        share = max(discordant_rate, difference)
        fixed = 0.5 + difference / share / 2 if share else 0.5
        found = scipy_stats.binom.cdf(critical, changed, fixed) + scipy_stats.binom.cdf(critical, changed, 1 - fixed)
        return float(scipy_stats.binom.pmf(changed, n, share) @ found) - power

    return float(optimize.brentq(lacking, 0.0, 1.0))


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number, in their order (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).

    The k-th smallest of m is multiplied by m - k + 1; none becomes smaller than one before it, none exceeds 1.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def mean_over_seeds(values: list[float]) -> dict:
    """One number from several seeds: `value` (mean), `sd` (sample), `low`, `high` (Student's t), `n` (seeds).

    In the unit of the values; with one seed `sd`, `low` and `high` are None.
    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return {"value": mean, "sd": None, "low": None, "high": None, "n": n}
    sd = statistics.stdev(values)
    half = float(scipy_stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"value": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that `k` of a row's `n` samples, drawn without replacement, hold a right one; `c` of `n` are right.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1). The binomials are
    exact integers and divided once, so nothing cancels or overflows.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples, {c} of them right, does not exist: 0 ≤ c ≤ n and 1 ≤ k ≤ n")
    return (math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k)


def pass_at_k_rate(counts: list[tuple[int, int]], k: int) -> dict:
    """pass@k over rows, each with its number of samples and of right ones: `value`, `low`, `high`, `n` (rows).

    The interval is over rows, each being one observation however many samples it has (Miller 2024, arXiv 2411.00640):
    Student's t of the rows' estimates, cut to 0 to 1. Where every estimate is 0 or 1, as with k of k samples, they are
    verdicts and the interval is Wilson's. `low` and `high` are None for a single row with an estimate between.

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
    """The reading that most of a row's samples share (maj@k; Wang et al. 2022, arXiv 2203.11171), or None without any.

    Numbers are compared as exact values. A sample without a reading does not vote. Of readings with as many votes the
    one sampled first wins, as in lm-evaluation-harness: the gold answer has no say.
    """
    votes = Counter(reading for reading in readings if reading is not None)
    return votes.most_common(1)[0][0] if votes else None
