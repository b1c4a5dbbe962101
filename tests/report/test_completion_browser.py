"""The sample of completions that a large page shows."""

from gsm8k_grpo.report.completion_browser import OUTCOME_NAMES, balanced_sample


def test_a_sample_has_equally_many_of_each_outcome_in_their_order():
    counts = dict(zip(OUTCOME_NAMES, (4, 1, 2, 5), strict=True))
    names = [name for name in reversed(OUTCOME_NAMES) for _ in range(counts[name])]
    pairs = [{"id": index, "outcomes": {"final": name}} for index, name in enumerate(names)]

    def shares(count):
        shown = balanced_sample(pairs, count)
        assert [pair["id"] for pair in shown] == sorted(pair["id"] for pair in shown)
        return [[pair["outcomes"]["final"] for pair in shown].count(name) for name in OUTCOME_NAMES]

    assert shares(0) == [0, 0, 0, 0]
    assert shares(4) == [1, 1, 1, 1]
    assert shares(9) == [3, 1, 2, 3]
    assert shares(12) == shares(100) == [4, 1, 2, 5]
