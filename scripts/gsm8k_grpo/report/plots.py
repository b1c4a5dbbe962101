"""SVG figures for a paper; equal numbers give equal bytes."""

import io
import os
from pathlib import Path

os.environ["MPLBACKEND"] = "svg"  # a notebook gives its commands its own backend, which is not installed here

import matplotlib
import matplotlib.pyplot as plt
import matplotlib.ticker
import pandas as pd

from gsm8k_grpo.common import files
from gsm8k_grpo.report.metric_catalogue import COLOUR, CURVES, panels_of

matplotlib.rcParams.update(
    {
        "svg.hashsalt": "gsm8k-grpo",  # without it, element ids are random and equal plots differ
        "svg.fonttype": "none",  # text stays text, not outlines
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e3e3e3",
        "figure.facecolor": "white",
    }
)


def draw_accuracy(selection: list[dict], best: dict, reported: list[dict], path: Path) -> None:
    """Draws rates with 95 % intervals over checkpoints on dev, and answer accuracy on test as separate points.

    Args:
      selection: metrics.json of all checkpoints on the rows that the best one is chosen on; base, at step 0, is first.
      best: best.json; a dotted line marks its step.
      reported: metrics.json of base, final and best on the recipe's split; drawn unless that is dev.
      path: the SVG to write.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.axvline(best["step"], color="#999999", linestyle=":", linewidth=1)
    for rate in CURVES:
        _draw_rate(axes, selection, rate.key, color=rate.colour, marker="o", markersize=4, label=rate.curve)
    if reported[0]["split"] != selection[0]["split"]:
        once = sorted({each["step"]: each for each in reported}.values(), key=lambda each: each["step"])
        label = f"answer, {once[0]['split']} ({once[0]['answer_accuracy']['n']} rows)"
        style = {"color": "black", "marker": "D", "markersize": 5, "linestyle": "none", "markerfacecolor": "none"}
        _draw_rate(axes, once, "answer_accuracy", label=label, **style)
    rows = f"{selection[0]['answer_accuracy']['n']} {selection[0]['split']} rows"
    axes.set(ylim=(0, 102), xlabel=f"training step (dotted: best on {selection[0]['split']})", ylabel=f"% of {rows}")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def draw_cost(runs: dict[str, tuple[dict, dict]], path: Path) -> None:
    """Draws the answer accuracy of final checkpoints, with 95 % intervals, over the cost of their training.

    Args:
      runs: `training_figures.accuracy_and_cost` of each run.
      path: the SVG to write.
    """
    figure, grid = plt.subplots(1, 2, figsize=(6.4, 3.0), layout="constrained", sharey=True)
    for axes, unit in zip(grid, ("seconds", "tokens"), strict=True):
        for index, (name, (rate, cost)) in enumerate(runs.items()):
            if cost[unit] is not None:
                style = {"marker": "osD^vP"[index % 6], "linestyle": "none", "color": f"C{index % 10}", "label": name}
                _draw_rate(axes, [{"step": cost[unit], "answer": rate}], "answer", **style)
        axes.set_xlim(0, 1.08 * max([cost[unit] or 0 for _, cost in runs.values()] + [1]))
        axes.set_xlabel(f"{unit} of training")
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    grid[0].set_ylabel("answer accuracy, %")
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def draw_transfer(compared: dict, path: Path) -> None:
    """Draws the change of answer accuracy on the recipe's own rows and on other sets, with 95 % intervals.

    Args:
      compared: transfer.json.
      path: the SVG to write.
    """
    own = compared["own"]
    drawn = [(f"{own['name']} ({own['answer']['n']} {own['split']} rows)", own)]
    drawn += [(f"{name} ({each['rows']} rows)", each["compared"]) for name, each in compared["sets"].items()]
    figure, axes = plt.subplots(figsize=(6.4, 1.1 + 0.45 * len(drawn)), layout="constrained")
    axes.axvline(0, color="#999999", linewidth=1)
    for index, rate in enumerate(each for each in CURVES if each.comparison in ("answer", "flexible")):
        changes = [test[rate.comparison]["difference"] for _, test in drawn]
        values = [100 * each["value"] for each in changes]
        errors = [[100 * (each["value"] - each["low"]) for each in changes]]
        errors.append([100 * (each["high"] - each["value"]) for each in changes])
        places = [place + 0.12 * (2 * index - 1) for place in range(len(drawn))]
        style = {"color": rate.colour, "marker": "os"[index], "markersize": 4, "linestyle": "none", "capsize": 3}
        axes.errorbar(values, places, xerr=errors, label=rate.curve, **style)
    axes.set_yticks(range(len(drawn)), [label for label, _ in drawn])
    axes.invert_yaxis()
    axes.set_xlabel("change from base to trained, percentage points")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def _draw_rate(axes: plt.Axes, evaluations: list[dict], key: str, **style: object) -> None:
    """One rate over steps, with its intervals."""
    rates = [evaluation[key] for evaluation in evaluations]
    values = [100 * rate["value"] for rate in rates]
    # A single prompt with several samples has no interval.
    ends = [(rate["value"] if rate[end] is None else rate[end]) for rate in rates for end in ("low", "high")]
    errors = [[value - 100 * low for value, low in zip(values, ends[::2], strict=True)]]
    errors.append([100 * high - value for value, high in zip(values, ends[1::2], strict=True)])
    axes.errorbar([each["step"] for each in evaluations], values, yerr=errors, capsize=3, **style)


def draw_training(metrics: pd.DataFrame, path: Path) -> None:
    """Draws the columns of metrics.csv over steps, raw and smoothed (a centred mean over a twentieth of the run)."""
    titles = {column.name: column.plot for panel in panels_of(metrics) for column in panel.columns if column.plot}
    # A run without a reference model measures no KL.
    drawn = [name for name in titles if name in metrics and metrics[name].notna().any()]
    height = -(-len(drawn) // 3)
    # As wide as a paper's page, so that letters keep their size.
    figure, grid = plt.subplots(height, 3, figsize=(7, 1.45 * height), layout="constrained")
    window = max(1, len(metrics) // 20)
    for axes, name in zip(grid.flat, drawn, strict=False):
        smoothed = metrics[name].rolling(window, center=True, min_periods=1).mean()
        axes.plot(metrics["step"], metrics[name], color=COLOUR, alpha=0.3, linewidth=0.8)
        axes.plot(metrics["step"], smoothed, color=COLOUR, linewidth=1.5)
        axes.set_title(titles[name], fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        low, high = metrics[name].min(), metrics[name].max()
        if low == high:
            axes.set_ylim(min(0, low), max(0, high) or 1)
            plt.setp(axes.lines, clip_on=False, zorder=3)  # or the axis would hide half of the line
        elif name.endswith("_seconds") and metrics[name].median() > 0:
            axes.set_ylim(0, 2 * metrics[name].median())  # the first step compiles and would flatten the rest
        if name == "tokens":
            axes.yaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    for axes in grid.flat[len(drawn) :]:
        axes.remove()
    figure.supxlabel("training step", fontsize=9)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    files.write_text(path, drawn.getvalue())
