"""The figures: each reward that a run has logged is a panel."""

import numpy as np
import pandas as pd
import pytest

from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.report import plots
from gsm8k_grpo.rewards import scoring

FIGURES = ["loss", "gradient_norm", "learning_rate", "kl", "entropy", "clip_fraction", "groups_without_signal"]
FIGURES += ["completion_tokens_mean", "truncated_rate", "reward", "reward_std"]
FIGURES += ["rollout_seconds", "reference_seconds", "update_seconds"]


@pytest.mark.parametrize("names", [["answer"], [*scoring.REWARDS, "brief"]], ids=["one", "all and one of ones own"])
def test_each_reward_is_plotted_by_name(tmp_path, names):
    columns = ["step", *FIGURES, *(f"reward_{name}" for name in names)]
    metrics = pd.DataFrame(np.arange(3 * len(columns), dtype=float).reshape(3, -1), columns=columns)
    plots.training(metrics, tmp_path / "training.svg")
    text = (tmp_path / "training.svg").read_text()
    for name in names:
        assert text.count(f">reward {name.replace('_', ' ')}<") == 1, name


def test_what_never_changes_is_drawn_from_0_upward(tmp_path, monkeypatch):
    limits = {}
    monkeypatch.setattr(
        plots,
        "_save",
        lambda figure, _: limits.update({each.get_title("left"): each.get_ylim() for each in figure.axes}),
    )
    metrics = pd.DataFrame({"step": [1, 2, 3], "clip_fraction": 0.0, "loss": -2.0, "groups_without_signal": 1.0})
    metrics = metrics.assign(kl=float("nan"), update_seconds=[9.0, 1.0, 1.0], reference_seconds=[9.0, 0.0, 0.0])
    plots.training(metrics, tmp_path / "training.svg")
    assert limits.pop("reference, seconds")[1] > 9
    assert limits == {
        "clipped ratios, share": (0, 1),
        "loss": (-2, 1),
        "groups without signal, share": (0, 1),
        "update, seconds": (0, 2),
    }


@pytest.mark.parametrize("split", ["dev", "test"])
def test_accuracy_is_drawn_over_dev_with_the_choice_marked_and_test_apart(tmp_path, split):
    def measured(checkpoint, step, split, n):
        rates = {name: stats.wilson_rate(step, n) for name in plots.COLOURS}
        return {"checkpoint": checkpoint, "step": step, "split": split, **rates}

    selection = [measured("base", 0, "dev", 30), measured("step-2", 2, "dev", 30), measured("final", 4, "dev", 30)]
    read = [measured("base", 0, split, 60), measured("final", 4, split, 60), measured("step-2", 2, split, 60)]
    plots.accuracy(selection, {"step": 2, "checkpoint": "step-2"}, read, tmp_path / "accuracy.svg")
    text = (tmp_path / "accuracy.svg").read_text()
    assert text.count(">% of 30 dev rows<") == 1 and text.count(">training step (dotted: best on dev)<") == 1
    assert text.count(">answer, test (60 rows)<") == (split == "test")
