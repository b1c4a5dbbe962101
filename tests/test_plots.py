"""The figures: each reward that a run has logged is a panel."""

import numpy as np
import pandas as pd
import pytest

from gsm8k_grpo import plots, rewards

FIGURES = ["loss", "gradient_norm", "learning_rate", "kl", "entropy", "clip_fraction", "groups_without_signal"]
FIGURES += ["completion_tokens_mean", "truncated_rate", "reward", "reward_std"]
FIGURES += ["rollout_seconds", "reference_seconds", "update_seconds"]


@pytest.mark.parametrize("names", [["answer"], [*rewards.PUBLISHED, "brief"]], ids=["one", "all and one of ones own"])
def test_each_reward_is_plotted_by_name(tmp_path, names):
    columns = ["step", *FIGURES, *(f"reward_{name}" for name in names)]
    metrics = pd.DataFrame(np.arange(3 * len(columns), dtype=float).reshape(3, -1), columns=columns)
    plots.training(metrics, tmp_path / "training.svg")
    text = (tmp_path / "training.svg").read_text()
    for name in names:
        assert text.count(f">reward {name.replace('_', ' ')}<") == 1, name
