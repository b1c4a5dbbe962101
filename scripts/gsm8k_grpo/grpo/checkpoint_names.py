"""Which checkpoints a run leaves, by step and by name. No JAX here: the rules ask too."""

from collections.abc import Mapping


def checkpoint_steps(max_steps: int, interval_steps: int) -> list[int]:
    """The steps after which a checkpoint is kept: every interval, and the last."""
    return [*range(interval_steps, max_steps, interval_steps), max_steps]


def checkpoint_name(step: int, max_steps: int) -> str:
    """A checkpoint's name in artifacts: `step-500`, or `final` for the last."""
    return "final" if step == max_steps else f"step-{step}"


def checkpoint_names(training: Mapping) -> list[str]:
    """All that is evaluated: `base`, then each checkpoint."""
    steps = checkpoint_steps(training["max_steps"], training["checkpoint_interval_steps"])
    return ["base", *(checkpoint_name(step, training["max_steps"]) for step in steps)]
