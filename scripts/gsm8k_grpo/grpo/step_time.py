"""How long a step takes, from the rows of steps that were done."""

import statistics


def step_seconds(history: list[dict]) -> float:
    """Seconds of a step without its checkpoint: the median, as the first compiles."""
    phases = [name for name in history[0] if name.endswith("_seconds") and name != "checkpoint_seconds"]
    return statistics.median(sum(row[name] for name in phases) for row in history)
