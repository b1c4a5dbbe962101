"""The figures, as SVG that is legible in a paper and the same bytes for the same numbers."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import matplotlib.ticker
import pandas as pd

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "gsm8k-grpo",  # otherwise element ids are random, and equal plots differ
        "svg.fonttype": "none",  # text stays text
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e3e3e3",
        "figure.facecolor": "white",
    }
)
COLOURS = {"answer_accuracy": "#0b6e99", "flexible_accuracy": "#b3541e", "format_accuracy": "#6b7f3a"}
LABELS = {"answer_accuracy": "answer", "flexible_accuracy": "last number, format ignored", "format_accuracy": "format"}

# Columns of metrics.csv, in the order in which they are drawn.
TITLES = {
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "learning_rate": "learning rate",
    "kl": "KL to the base, nats a token",
    "entropy": "entropy, nats a token",
    "clip_fraction": "clipped ratios, share",
    "groups_without_signal": "groups without signal, share",
    "completion_tokens_mean": "completion length, tokens",
    "truncated_rate": "cut at the limit, share",
    "reward": "total reward",
    "reward_std": "reward, standard deviation",
    "tokens": "tokens so far",
    "epoch": "epoch",
    "rollout_seconds": "rollout, seconds",
    "reference_seconds": "reference, seconds",
    "update_seconds": "update, seconds",
}


def accuracy(selection: list[dict], best: dict, measured: list[dict], path: Path) -> None:
    """Rates with 95 % intervals over checkpoints on dev, the base model at step 0; answers on test apart from them.

    Args:
      selection: contents of metrics.json on the rows that the best checkpoint was chosen on, base first.
      best: contents of best.json; its step is marked.
      measured: contents of metrics.json of base, final and best on the recipe's split; drawn where it is not dev.
      path: the SVG to write.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.axvline(best["step"], color="#999999", linestyle=":", linewidth=1)
    for name, colour in COLOURS.items():
        _points(axes, selection, name, color=colour, marker="o", markersize=4, label=LABELS[name])
    if measured[0]["split"] != selection[0]["split"]:
        once = sorted({each["step"]: each for each in measured}.values(), key=lambda each: each["step"])
        label = f"answer, {once[0]['split']} ({once[0]['answer_accuracy']['n']} rows)"
        style = {"color": "black", "marker": "D", "markersize": 5, "linestyle": "none", "markerfacecolor": "none"}
        _points(axes, once, "answer_accuracy", label=label, **style)
    rows = f"{selection[0]['answer_accuracy']['n']} {selection[0]['split']} rows"
    axes.set(ylim=(0, 102), xlabel=f"training step (dotted: best on {selection[0]['split']})", ylabel=f"% of {rows}")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def cost(runs: dict[str, tuple[dict, dict]], path: Path) -> None:
    """Answer accuracy of final checkpoints, with 95 % intervals, over what their training cost.

    Args:
      runs: for each run its rate (`value`, `low`, `high`) and its cost (`seconds`, `tokens`; see training_panels.cost).
      path: the SVG to write.
    """
    figure, grid = plt.subplots(1, 2, figsize=(6.4, 3.0), layout="constrained", sharey=True)
    for axes, unit in zip(grid, ("seconds", "tokens"), strict=True):
        for index, (name, (rate, spent)) in enumerate(runs.items()):
            if spent[unit] is not None:
                style = {"marker": "osD^vP"[index % 6], "linestyle": "none", "color": f"C{index % 10}", "label": name}
                _points(axes, [{"step": spent[unit], "answer": rate}], "answer", **style)
        axes.set_xlim(0, 1.08 * max([spent[unit] or 0 for _, spent in runs.values()] + [1]))
        axes.set_xlabel(f"{unit} of training")
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    grid[0].set_ylabel("answer accuracy, %")
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def _points(axes: plt.Axes, evaluations: list[dict], name: str, **style: object) -> None:
    """One rate over steps, with its intervals."""
    rates = [evaluation[name] for evaluation in evaluations]
    values = [100 * rate["value"] for rate in rates]
    # An interval over prompts may not exist (a single one with several samples).
    ends = [(rate["value"] if rate[end] is None else rate[end]) for rate in rates for end in ("low", "high")]
    errors = [[value - 100 * low for value, low in zip(values, ends[::2], strict=True)]]
    errors.append([100 * high - value for value, high in zip(values, ends[1::2], strict=True)])
    axes.errorbar([each["step"] for each in evaluations], values, yerr=errors, capsize=3, **style)


def training(metrics: pd.DataFrame, path: Path) -> None:
    """The figures of training over steps, raw and smoothed (a centred mean over a twentieth of the run)."""
    rewards = [name for name in metrics if name.startswith("reward_") and name != "reward_std"]
    titles = TITLES | {name: name.replace("_", " ") for name in rewards}
    # Without a reference model there is no KL.
    panels = [name for name in titles if name in metrics and metrics[name].notna().any()]
    height = -(-len(panels) // 3)
    # As wide as a page of a paper, so that the letters keep their size.
    figure, grid = plt.subplots(height, 3, figsize=(7, 1.45 * height), layout="constrained")
    window = max(1, len(metrics) // 20)
    for axes, name in zip(grid.flat, panels, strict=False):
        smoothed = metrics[name].rolling(window, center=True, min_periods=1).mean()
        axes.plot(metrics["step"], metrics[name], color="#0b6e99", alpha=0.3, linewidth=0.8)
        axes.plot(metrics["step"], smoothed, color="#0b6e99", linewidth=1.5)
        axes.set_title(titles[name], fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        low, high = metrics[name].min(), metrics[name].max()
        if low == high:
            axes.set_ylim(min(0, low), max(0, high) or 1)
            plt.setp(axes.lines, clip_on=False, zorder=3)  # to be seen on the axis too
        elif name.endswith("_seconds") and metrics[name].median() > 0:
            axes.set_ylim(0, 2 * metrics[name].median())  # the first step compiles: it would flatten the rest
        if name == "tokens":
            axes.yaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    figure.supxlabel("training step", fontsize=9)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)
    temporary.replace(path)
