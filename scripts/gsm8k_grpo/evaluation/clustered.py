"""Verdicts before and after on rows that come in clusters: several rows made from one template, or from one question.

Rows of one cluster tend to change together, so that they are less evidence than as many independent rows.
"""

import collections
import math

import numpy as np

from gsm8k_grpo.evaluation import stats


def paired_comparison(before: list[bool], after: list[bool], clusters: list[str] | None = None) -> dict:
    """`stats.paired_comparison`, with an interval and a test that know of clusters where rows share one.

    The interval is Student's t with cluster-robust standard errors (Miller 2024, arXiv 2411.00640; times
    C / (C - 1), with C - 1 degrees of freedom), but never narrower than Tango's of independent rows. The test flips
    the sign of whole clusters (`sign_flip_p`). With a row a cluster, both are those of `stats.paired_comparison`.

    Args:
      before, after: for each row, whether it was right.
      clusters: for each row, the name of its cluster; None where rows are independent.

    Returns:
      the keys of `stats.paired_comparison`; `p`, the test to go by (McNemar's, or that of clusters); `clusters` (their
      number C, or None) and `design_effect` (by how much the variance exceeds that of independent rows; None without
      clusters or change). With clusters, `smallest_difference` is that of as many rows as remain after division by it;
      None with fewer than six clusters.

    Raises:
      PipelineError: there are no rows.
    """
    found = stats.paired_comparison(before, after)
    independent = found | {"p": found["mcnemar_p"], "clusters": None, "design_effect": None}
    if clusters is None or len(set(clusters)) == len(clusters):
        return independent
    changes: dict[str, list[int]] = collections.defaultdict(list)
    for name, first, second in zip(clusters, before, after, strict=True):
        changes[name].append(int(second) - int(first))
    count, n, mean = len(changes), found["n"], found["difference"]["value"]
    half, effect = math.inf, None  # one cluster alone says nothing of others
    if count > 1:
        from scipy import stats as scipy_stats

        residuals = [sum(of_cluster) - mean * len(of_cluster) for of_cluster in changes.values()]
        variance = count / (count - 1) * sum(each**2 for each in residuals) / n**2
        half = float(scipy_stats.t.ppf(0.975, count - 1)) * math.sqrt(variance)
        alone = sum((change - mean) ** 2 for of_cluster in changes.values() for change in of_cluster) / n / (n - 1)
        effect = variance / alone if alone else None
    low = max(-1.0, min(found["difference"]["low"], mean - half))
    high = min(1.0, max(found["difference"]["high"], mean + half))
    effective = int(n / max(1.0, effect or 1.0))
    # Fewer clusters show nothing, even where all of them change in one direction.
    finds = 2 * 0.5**count <= stats.SIGNIFICANT
    share = (found["fixed"] + found["broken"]) / n
    return independent | {
        "difference": {"value": mean, "low": low, "high": high},
        "p": sign_flip_p([sum(of_cluster) for of_cluster in changes.values()]),
        "clusters": count,
        "design_effect": effect,
        "smallest_difference": stats.smallest_difference(effective, share) if finds else None,
    }


def sign_flip_p(sums: list[int]) -> float:
    """The two-sided p of the sum of these changes, if each cluster's could as well have been the opposite.

    Where training changes nothing, base and trained model can change places in each cluster. The distribution of the
    sum over all 2^C such exchanges is exact, by convolution. With sums of 1 and -1 it is McNemar's exact test.

    Args:
      sums: the sum of the changes (1 won, -1 lost) of each cluster.
    """
    reach = sum(map(abs, sums))
    shares = np.zeros(2 * reach + 1)
    shares[reach] = 1.0
    for size in filter(None, map(abs, sums)):
        shares = (np.roll(shares, size) + np.roll(shares, -size)) / 2  # never rolls over: `reach` is the farthest sum
    observed = abs(sum(sums))
    return float(min(1.0, shares[np.abs(np.arange(-reach, reach + 1)) >= observed].sum()))
