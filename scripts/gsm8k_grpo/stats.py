"""Statistics of the evidence, over SciPy: intervals of rates, and base against trained on the same questions."""

import math

from scipy import stats as scipy_stats


def rate(successes: int, n: int) -> dict:
    """A rate with its 95 % Wilson score interval (Wilson 1927): `value`, `low`, `high`, `n`."""
    interval = scipy_stats.binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return {"value": successes / n, "low": float(interval.low), "high": float(interval.high), "n": n}


def paired(before: list[bool], after: list[bool]) -> dict:
    """Two graders' verdicts on the same rows: 2 × 2 table, difference with interval, exact McNemar test.

    Args:
      before: right or wrong before training, a row each.
      after: the same rows after it.

    Returns:
      `both`, `fixed`, `broken`, `neither` (rows), `difference` (`value`, `low`, `high`: 95 %, from the paired
      standard error of Agresti & Min 2005, each of the four counts raised by one half), `mcnemar_p` (exact, two-sided:
      a binomial test of the rows that changed).
    """
    table = {"both": 0, "fixed": 0, "broken": 0, "neither": 0}
    for first, second in zip(before, after, strict=True):
        table["both" if first and second else "broken" if first else "fixed" if second else "neither"] += 1
    n, fixed, broken = len(before), table["fixed"], table["broken"]
    difference = (fixed - broken) / n
    up, down, size = fixed + 0.5, broken + 0.5, n + 2
    error = math.sqrt((up + down) - (up - down) ** 2 / size) / size
    centre = (up - down) / size
    quantile = float(scipy_stats.norm.ppf(0.975))
    p = scipy_stats.binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    return {
        **table,
        "n": n,
        "difference": {
            "value": difference,
            "low": max(-1.0, centre - quantile * error),
            "high": min(1.0, centre + quantile * error),
        },
        "mcnemar_p": float(p),
    }
