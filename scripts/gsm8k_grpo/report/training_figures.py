"""Figures of training: the panels of the page with their data, seconds by phase, the cost of a run."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.evaluation.artifact_reading import read_metrics
from gsm8k_grpo.report import numbers
from gsm8k_grpo.report.metric_catalogue import PHASES, panels_of

SIGNIFICANT_DIGITS = 5


def list_panels(metrics: pd.DataFrame) -> list[dict]:
    """The panels of a run: `key`, `title`, `about` and `series`, each `column` and `label`.

    Columns that the run did not measure are left out, and so are panels without a column.
    """
    found = []
    for panel in panels_of(metrics):
        series = [
            {"column": column.name, "label": numbers.escape_invisible(column.label)}
            for column in panel.columns
            if column.name in metrics and metrics[column.name].notna().any()
        ]
        if series:
            found.append({"key": panel.key, "title": panel.title, "about": panel.about, "series": series})
    return found


def panel_data(metrics: pd.DataFrame, panels: list[dict]) -> dict[str, list]:
    """`step` and the columns of some panels, rounded to `SIGNIFICANT_DIGITS`; NaN and infinity become None."""
    names = ["step", *(series["column"] for panel in panels for series in panel["series"])]
    return {name: [_rounded(value) for value in metrics[name].tolist()] for name in names}


def _rounded(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}") if value != int(value) else int(value)
    return int(rounded) if rounded == int(rounded) else rounded


def seconds_by_phase(training: Mapping) -> dict[str, float]:
    """Seconds of each phase of training that took time.

    Args:
      training: training/summary.json.
    """
    return {name: seconds for name in PHASES if (seconds := training.get(f"{name}_seconds", 0.0))}


def training_cost(training: Mapping | None, metrics: pd.DataFrame | None) -> dict[str, float | int | None]:
    """The cost of a run: `seconds` of all phases and `tokens` of prompts and completions; None if unknown.

    Args:
      training: training/summary.json.
      metrics: training/metrics.csv.
    """
    counted = pd.Series() if metrics is None or "tokens" not in metrics else metrics["tokens"].dropna()
    return {
        "seconds": round(sum(seconds_by_phase(training).values()), 1) if training else None,
        "tokens": None if counted.empty else int(counted.iloc[-1]),
    }


def accuracy_and_cost(results: Path, run: str) -> tuple[dict, dict]:
    """The answer accuracy of a run's final checkpoint, and `training_cost`."""
    folder = layout.training_folder(results, run)
    cost = training_cost(files.read_json(folder / "summary.json"), pd.read_csv(folder / "metrics.csv"))
    return read_metrics(results, run)["final"]["answer_accuracy"], cost
