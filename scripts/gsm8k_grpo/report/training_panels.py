"""Which figures of training stand in which panel of the page, and their columns as the page's script wants them."""

import math
from collections.abc import Mapping

import pandas as pd

from gsm8k_grpo.report import numbers

SIGNIFICANT_DIGITS = 5
PHASES = ("rollout", "reference", "update", "checkpoint")
# Key, title, what it says, and columns by label. A column that a run has not measured is left out.
PANELS = (
    ("reward", "Total reward", "mean of the completions", {"reward": "total reward"}),
    ("rewards", "Each reward", "means; their sum is the total", {}),
    ("reward_std", "Standard deviation of the reward", "", {"reward_std": "standard deviation"}),
    (
        "signal",
        "Groups without signal",
        "share of groups whose rewards are all equal",
        {"groups_without_signal": "without signal", "groups_replaced": "replaced"},
    ),
    ("loss", "Loss", "", {"loss": "loss"}),
    ("gradient_norm", "Gradient norm", "before clipping", {"gradient_norm": "gradient norm"}),
    ("learning_rate", "Learning rate", "", {"learning_rate": "learning rate"}),
    ("kl", "KL to the base model", "nats a token", {"kl": "KL"}),
    ("entropy", "Entropy", "nats a token", {"entropy": "entropy"}),
    ("clip_fraction", "Clipped ratios", "share of tokens", {"clip_fraction": "clipped"}),
    (
        "length",
        "Completion length",
        "tokens",
        {"completion_tokens_mean": "mean", "completion_tokens_max": "longest"},
    ),
    ("truncated", "Cut at the limit", "share of completions", {"truncated_rate": "cut"}),
    ("tokens", "Tokens so far", "prompts and completions", {"tokens": "tokens"}),
    ("epoch", "Epoch", "", {"epoch": "epoch"}),
    (
        "seconds",
        "Seconds of a step",
        "by phase",
        {
            "rollout_seconds": "rollout",
            "reference_seconds": "reference",
            "update_seconds": "update",
            "checkpoint_seconds": "checkpoint",
        },
    ),
)


def panels(metrics: pd.DataFrame) -> list[dict]:
    """The panels of a run: `key`, `title`, `about` and `series`, each `column` and `label`."""
    found = []
    for key, title, about, columns in PANELS:
        if key == "rewards":
            names = [name for name in metrics if name.startswith("reward_") and name != "reward_std"]
            columns = {name: numbers.escape_invisible(name.removeprefix("reward_").replace("_", " ")) for name in names}
        there = {
            column: label for column, label in columns.items() if column in metrics and metrics[column].notna().any()
        }
        if there:
            series = [{"column": column, "label": label} for column, label in there.items()]
            found.append({"key": key, "title": title, "about": about, "series": series})
    return found


def seconds_by_phase(training: Mapping) -> dict[str, float]:
    """Seconds of training by phase, without the phases that took none.

    Args:
      training: contents of training/summary.json.
    """
    return {name: seconds for name in PHASES if (seconds := training.get(f"{name}_seconds", 0.0))}


def training_cost(training: Mapping | None, metrics: pd.DataFrame | None) -> dict[str, float | int | None]:
    """What a run's training cost: `seconds` of all phases, and `tokens` sampled (prompts too); None is not known.

    Args:
      training: contents of training/summary.json.
      metrics: training/metrics.csv.
    """
    counted = pd.Series() if metrics is None or "tokens" not in metrics else metrics["tokens"].dropna()
    return {
        "seconds": round(sum(seconds_by_phase(training).values()), 1) if training else None,
        "tokens": None if counted.empty else int(counted.iloc[-1]),
    }


def columns(metrics: pd.DataFrame, shown: list[dict]) -> dict[str, list]:
    """The columns that the panels need and `step`, rounded to what can be read; what is no number is null."""
    names = ["step", *(series["column"] for panel in shown for series in panel["series"])]
    return {name: [_short(value) for value in metrics[name].tolist()] for name in names}


def _short(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}") if value != int(value) else int(value)
    return int(rounded) if rounded == int(rounded) else rounded
