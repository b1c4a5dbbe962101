"""The panels of training on the page and their data."""

import json

import numpy as np
import pandas as pd

from gsm8k_grpo.report import training_figures


def test_each_reward_is_a_series_and_unmeasured_columns_are_left_out():
    metrics = pd.DataFrame({"step": [1, 2], "reward": [1.0, 2.0], "reward_std": [0.0, 1.0], "kl": [np.nan, np.nan]})
    metrics["reward_answer"], metrics["reward_mine"] = [1.0, 1.0], [0.0, np.nan]
    found = {
        panel["key"]: [series["column"] for series in panel["series"]]
        for panel in training_figures.list_panels(metrics)
    }
    assert found == {"reward": ["reward"], "rewards": ["reward_answer", "reward_mine"], "reward_std": ["reward_std"]}


def test_numbers_are_rounded_and_nan_is_null():
    metrics = pd.DataFrame(
        {"step": [1, 2, 3, 4], "loss": [1 / 3, np.nan, np.inf, 2e-7 / 3], "tokens": [2887, 6015, 9075, 12345678]}
    )
    shown = training_figures.list_panels(metrics)
    found = training_figures.panel_data(metrics, shown)
    assert found == {
        "step": [1, 2, 3, 4],
        "loss": [0.33333, None, None, 6.6667e-08],
        "tokens": [2887, 6015, 9075, 12345678],
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
