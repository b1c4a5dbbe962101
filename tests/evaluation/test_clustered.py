"""Paired tests on rows that share a template, against McNemar's test, a bootstrap, and sums by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from gsm8k_grpo.evaluation import clustered, stats


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_with_a_row_a_cluster_it_is_the_comparison_of_independent_rows(verdicts):
    before, after = map(list, zip(*verdicts, strict=True))
    names = [str(index) for index in range(len(before))]
    found, independent = clustered.paired_comparison(before, after, names), stats.paired_comparison(before, after)
    assert independent.items() <= found.items() and found["p"] == independent["mcnemar_p"]
    assert found == clustered.paired_comparison(before, after)
    changes = [int(last) - int(first) for first, last in verdicts]
    assert clustered.sign_flip_p(changes) == pytest.approx(independent["mcnemar_p"])


def test_the_sign_flip_test_by_hand():
    # ± 2 ± 2 ± 1 is 3 or more, or -3 or less, in 4 of 8 cases.
    assert clustered.sign_flip_p([2, 2, -1]) == 0.5
    assert clustered.sign_flip_p([3, 0, 3, 3]) == 0.25
    assert clustered.sign_flip_p([0, 0]) == clustered.sign_flip_p([7]) == 1.0


def test_the_interval_is_that_of_a_bootstrap_of_clusters():
    rng = np.random.default_rng(0)
    size, count = 20, 80
    share = rng.beta(0.6, 0.6, size=count).repeat(size)  # templates that a model can, and others that it can't
    before, after = rng.random(size * count) < 0.4 * share, rng.random(size * count) < share
    names = [f"template {index // size}" for index in range(size * count)]
    found = clustered.paired_comparison(before.tolist(), after.tolist(), names)
    sums = (after.astype(int) - before.astype(int)).reshape(count, size).mean(axis=1)
    drawn = rng.choice(sums, size=(20_000, count)).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    alone, difference = stats.paired_comparison(before.tolist(), after.tolist()), found["difference"]
    independent = alone["difference"]
    assert (difference["low"], difference["high"]) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert difference["value"] == independent["value"] == pytest.approx(sums.mean())
    width, narrow = difference["high"] - difference["low"], independent["high"] - independent["low"]
    assert found["clusters"] == count and found["design_effect"] == pytest.approx((width / narrow) ** 2, rel=0.1)
    assert found["design_effect"] > 2 and found["smallest_difference"] > alone["smallest_difference"]


def test_the_interval_of_a_few_clusters_of_one_size_is_students_t_of_their_means():
    names = [f"template {index // 5}" for index in range(30)]
    found = clustered.paired_comparison([False] * 30, [True] * 10 + [False] * 20, names)["difference"]
    expected = scipy_stats.ttest_1samp([1, 1, 0, 0, 0, 0], 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_copies_of_rows_are_no_new_evidence():
    before, after = [False] * 30, [True] * 14 + [False] * 16
    once = clustered.paired_comparison(before, after)
    names = [str(index) for index in range(30)] * 9
    nine_times = clustered.paired_comparison(before * 9, after * 9, names)
    assert nine_times["p"] == once["p"] and nine_times["n"] == 270
    assert nine_times["design_effect"] == pytest.approx((270 - 1) / (30 - 1))
    assert nine_times["difference"]["high"] - nine_times["difference"]["low"] == pytest.approx(
        once["difference"]["high"] - once["difference"]["low"], rel=0.15
    )
    assert nine_times["smallest_difference"] == pytest.approx(once["smallest_difference"], rel=0.1)


def test_one_template_alone_shows_nothing():
    found = clustered.paired_comparison([False] * 50, [True] * 50, ["one"] * 50)
    assert found["difference"] == {"value": 1.0, "low": -1.0, "high": 1.0} and found["p"] == 1.0
    assert found["design_effect"] is None and found["smallest_difference"] is None


def test_fewer_than_six_templates_show_nothing():
    """Their smallest p is 2 * 0.5^5 = 0.06."""
    for templates in (5, 6):
        names = [f"template {index // 10}" for index in range(10 * templates)]
        found = clustered.paired_comparison([False] * len(names), [True] * len(names), names)
        assert (found["p"] < 0.05) == (found["smallest_difference"] is not None) == (templates == 6)


def test_without_a_change_the_interval_is_that_of_independent_rows():
    rows = [True, False] * 20
    found = clustered.paired_comparison(rows, rows, [str(index // 4) for index in range(40)])
    assert found["difference"] == stats.paired_comparison(rows, rows)["difference"]
    assert found["p"] == 1.0 and found["design_effect"] is None
