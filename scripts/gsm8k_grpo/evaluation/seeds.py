"""Rates of one recipe over several seeds."""

from collections.abc import Callable

from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.evaluation.artifact_reading import REPORTED_CHECKPOINTS
from gsm8k_grpo.evaluation.metrics import COUNTED_VERDICTS

RATES = (*(f"{name}_accuracy" for name in ("answer", *COUNTED_VERDICTS)), "truncated_rate")


def summarise_seeds(metrics: dict[str, dict[str, dict]]) -> dict:
    """Mean and interval of each rate over the runs of a recipe.

    Args:
      metrics: for each run, metrics.json of `base`, `best` and `final`.

    Returns:
      `runs`; under `base`, `best` and `final` each rate as `stats.mean_over_seeds`; under `final - base` and
      `best - base` the same of the differences within a run. Only the training varies: all runs share rows and base.
    """

    def over_runs(value: Callable[[dict, str], float], lowest: float = 0.0) -> dict:
        found = {name: stats.mean_over_seeds([value(run, name) for run in metrics.values()]) for name in RATES}
        for mean in found.values():  # Student's t can leave the range of a rate
            if mean["low"] is not None:
                mean |= {"low": max(lowest, mean["low"]), "high": min(1.0, mean["high"])}
        return found

    return {
        "runs": list(metrics),
        **{
            checkpoint: over_runs(lambda run, name, checkpoint=checkpoint: run[checkpoint][name]["value"])
            for checkpoint in REPORTED_CHECKPOINTS
        },
        **{
            f"{checkpoint} - base": over_runs(
                lambda run, name, checkpoint=checkpoint: run[checkpoint][name]["value"] - run["base"][name]["value"],
                lowest=-1.0,
            )
            for checkpoint in ("best", "final")
        },
    }
