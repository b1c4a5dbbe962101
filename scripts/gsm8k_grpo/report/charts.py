"""The data of the page's charts over checkpoints and over cost, in per cent."""

import math
from collections.abc import Mapping

from gsm8k_grpo.evaluation.artifact_reading import REPORTED_CHECKPOINTS
from gsm8k_grpo.report.metric_catalogue import CURVES, RATES


def cost_points(runs: list[Mapping]) -> list[dict]:
    """The answer accuracy of each finished run and the cost of its training."""
    return [
        {
            "name": run["name"],
            "recipe": run["recipe"],
            **{end: _percent(run["final"]["answer_accuracy"][end]) for end in ("value", "low", "high")},
            **run["cost"],
        }
        for run in runs
        if run["settings"] and run["final"] and any(value is not None for value in run["cost"].values())
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 3)


def difference_reach(compared: Mapping) -> float:
    """How far a scale around 0 must reach to hold all intervals of transfer.json, as a share; tens of points."""
    tests = [compared["own"], *(each["compared"] for each in compared["sets"].values())]
    changes = [test[key]["difference"] for test in tests for key in ("answer", "flexible")]
    ends = [abs(change[end]) for change in changes for end in ("low", "high")]
    return math.ceil(10 * max(ends)) / 10


def accuracy_curve(run: Mapping) -> dict | None:
    """Rates over steps on dev, and answer accuracy on test as separate points; None without an evaluation on dev."""
    selection = run["selection"]
    if not selection:
        return None
    reported = {run[name]["step"]: run[name] for name in REPORTED_CHECKPOINTS if run[name]}
    dev = selection[0]["split"]
    if all(each["split"] == dev for each in reported.values()):
        reported = {}
    steps = sorted({each["step"] for each in selection} | set(reported))

    def series(label: str, evaluations: dict[int, dict], key: str, colour: int, **style: object) -> dict:
        ends = {
            name: [_percent(evaluations[step][key][end]) if step in evaluations else None for step in steps]
            for name, end in (("values", "value"), ("low", "low"), ("high", "high"))
        }
        return {"label": label, "colour": f"--series-{colour}", **ends, **style}

    on_dev = {each["step"]: each for each in selection}
    shown = [series(f"{rate.curve}, {dev}", on_dev, rate.key, index) for index, rate in enumerate(CURVES)]
    if reported:
        label = f"{RATES['answer_accuracy'].curve}, {next(iter(reported.values()))['split']}"
        shown.append(series(label, reported, "answer_accuracy", len(CURVES), line=False))
    return {"x": steps, "series": shown, "chosen": run["choice"]["step"] if run["choice"] else None}
