"""The data of the page's charts."""

from collections.abc import Mapping

from gsm8k_grpo.evaluation.artifacts import REPORTED_CHECKPOINTS


def cost_points(stories: list[Mapping]) -> list[dict]:
    """Accuracy of each finished run, in per cent, and what its training cost; for the plot."""
    return [
        {
            "name": told["name"],
            "recipe": told["recipe"],
            **{end: _percent(told["final"]["answer_accuracy"][end]) for end in ("value", "low", "high")},
            **told["cost"],
        }
        for told in stories
        if told["settings"] and told["final"] and any(value is not None for value in told["cost"].values())
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 3)


def accuracy_curve(told: Mapping) -> dict | None:
    """Rates over steps in per cent, dev and test apart, for the chart; None without an evaluation on dev."""
    selection = told["selection"]
    if not selection:
        return None
    measured = {told[name]["step"]: told[name] for name in REPORTED_CHECKPOINTS if told[name]}
    if all(each["split"] == selection[0]["split"] for each in measured.values()):
        measured = {}
    steps = sorted({each["step"] for each in selection} | set(measured))

    def series(label: str, found: dict[int, dict], key: str, colour: int, **style: object) -> dict:
        ends = {
            name: [_percent(found[step][key][end]) if step in found else None for step in steps]
            for name, end in (("values", "value"), ("low", "low"), ("high", "high"))
        }
        return {"label": label, "colour": f"--series-{colour}", **ends, **style}

    on_dev, split = {each["step"]: each for each in selection}, selection[0]["split"]
    shown = [
        series(f"answer, {split}", on_dev, "answer_accuracy", 0),
        series(f"format ignored, {split}", on_dev, "flexible_accuracy", 1),
        series(f"format, {split}", on_dev, "format_accuracy", 2),
    ]
    if measured:
        other = next(iter(measured.values()))["split"]
        shown.append(series(f"answer, {other}", measured, "answer_accuracy", 3, line=False))
    return {"x": steps, "series": shown, "chosen": told["chosen"]["step"] if told["chosen"] else None}
