"""Rates of one recipe over several seeds."""

from collections.abc import Callable

from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.evaluation.artifacts import REPORTED_CHECKPOINTS
from gsm8k_grpo.evaluation.metrics import COUNTED_VERDICTS


def summarise_seeds(measured: dict[str, dict[str, dict]]) -> dict:
    """Rates of one recipe over its seeds.

    Args:
      measured: for each run, the contents of metrics.json of `base`, `best` and `final`.

    Returns:
      `runs`; for each of the three, every rate as `stats.over_seeds` of its values; and the same of the differences
      within a run under `final - base` and `best - base`. What varies is the training alone: rows and base do not.
    """
    names = [f"{name}_accuracy" for name in ("answer", *COUNTED_VERDICTS)] + ["truncated_rate"]

    def summary(value: Callable[[dict, str], float], lowest: float = 0.0) -> dict:
        found = {name: stats.mean_over_seeds([value(run, name) for run in measured.values()]) for name in names}
        for over in found.values():  # Student's t knows no bounds, shares do
            if over["low"] is not None:
                over |= {"low": max(lowest, over["low"]), "high": min(1.0, over["high"])}
        return found

    return {
        "runs": list(measured),
        **{
            checkpoint: summary(lambda run, name, checkpoint=checkpoint: run[checkpoint][name]["value"])
            for checkpoint in REPORTED_CHECKPOINTS
        },
        **{
            f"{checkpoint} - base": summary(
                lambda run, name, checkpoint=checkpoint: run[checkpoint][name]["value"] - run["base"][name]["value"],
                lowest=-1.0,
            )
            for checkpoint in ("best", "final")
        },
    }
