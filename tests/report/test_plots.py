"""The SVG figures."""

import numpy as np
import pandas as pd
import pytest

from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.report import plots
from gsm8k_grpo.report.metric_catalogue import CURVES, PANELS


def test_each_reward_and_each_column_with_a_title_is_drawn(tmp_path):
    columns = [column for panel in PANELS for column in panel.columns]
    rewards = ["reward_format_exact", "reward_brief"]  # the last one a function of the user
    header = ["step", *(column.name for column in columns), *rewards]
    metrics = pd.DataFrame(np.arange(3 * len(header), dtype=float).reshape(3, -1), columns=header)
    plots.draw_training(metrics, tmp_path / "training.svg")
    text = (tmp_path / "training.svg").read_text()
    for title in ("reward format exact", "reward brief", *(column.plot for column in columns if column.plot)):
        assert text.count(f">{title}<") == 1, title


def test_a_constant_column_is_drawn_from_0(tmp_path, monkeypatch):
    limits = {}
    monkeypatch.setattr(
        plots,
        "_save",
        lambda figure, _: limits.update({each.get_title("left"): each.get_ylim() for each in figure.axes}),
    )
    metrics = pd.DataFrame({"step": [1, 2, 3], "clip_fraction": 0.0, "loss": -2.0, "groups_without_signal": 1.0})
    metrics = metrics.assign(kl=float("nan"), update_seconds=[9.0, 1.0, 1.0], reference_seconds=[9.0, 0.0, 0.0])
    plots.draw_training(metrics, tmp_path / "training.svg")
    assert limits.pop("reference, seconds")[1] > 9
    assert limits == {
        "clipped ratios, share": (0, 1),
        "loss": (-2, 1),
        "groups without signal, share": (0, 1),
        "update, seconds": (0, 2),
    }


@pytest.mark.parametrize("split", ["dev", "test"])
def test_accuracy_is_drawn_on_dev_with_the_choice_and_test_apart(tmp_path, split):
    def measured(checkpoint, step, split, n):
        rates = {rate.key: stats.wilson_rate(step, n) for rate in CURVES}
        return {"checkpoint": checkpoint, "step": step, "split": split, **rates}

    selection = [measured("base", 0, "dev", 30), measured("step-2", 2, "dev", 30), measured("final", 4, "dev", 30)]
    read = [measured("base", 0, split, 60), measured("final", 4, split, 60), measured("step-2", 2, split, 60)]
    plots.draw_accuracy(selection, {"step": 2, "checkpoint": "step-2"}, read, tmp_path / "accuracy.svg")
    text = (tmp_path / "accuracy.svg").read_text()
    assert text.count(">% of 30 dev rows<") == 1 and text.count(">training step (dotted: best on dev)<") == 1
    assert text.count(">answer, test (60 rows)<") == (split == "test")


def test_changes_on_other_sets_are_drawn_by_their_names(tmp_path):
    def tests(before, after):
        return dict.fromkeys(("answer", "flexible"), stats.paired_comparison(before, after))

    sets = {"others": {"rows": 40, "compared": tests([False] * 40, [True] * 40)}}
    own = {"name": "gsm8k", "split": "test", **tests([False] * 9, [False] * 9)}
    plots.draw_transfer({"own": own, "sets": sets}, tmp_path / "transfer.svg")
    drawn = (tmp_path / "transfer.svg").read_text()
    assert all(drawn.count(f">{text}<") == 1 for text in ("gsm8k (9 test rows)", "others (40 rows)", "format ignored"))


def test_intervals_are_drawn_from_their_lower_to_their_upper_end(tmp_path, monkeypatch):
    ends = []

    def keep(figure, _):
        for container in figure.axes[0].containers:
            (bars,) = container.lines[2]
            ends.extend(bars.get_segments())

    monkeypatch.setattr(plots, "_save", keep)
    rate = stats.wilson_rate(3, 10)
    plots.draw_cost({"one": (rate, {"seconds": 5.0, "tokens": None})}, tmp_path / "cost.svg")
    assert ends.pop()[:, 1] == pytest.approx([100 * rate["low"], 100 * rate["high"]])
    change = stats.paired_comparison([False] * 10, [True] * 4 + [False] * 6)
    own = {"name": "gsm8k", "split": "test", **dict.fromkeys(("answer", "flexible"), change)}
    plots.draw_transfer({"own": own, "sets": {}}, tmp_path / "transfer.svg")
    expected = [100 * change["difference"][end] for end in ("low", "high")]
    assert [list(each[:, 0]) for each in ends] == [pytest.approx(expected)] * 2
