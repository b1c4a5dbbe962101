"""Which checkpoints a run keeps, by step and by name, from `max_steps` and `checkpoint_interval_steps`.

This module does not import JAX, because the rules use it too.
"""

from collections.abc import Mapping


def checkpoint_steps(max_steps: int, interval_steps: int) -> list[int]:
    """The steps whose checkpoints are kept: one every `interval_steps`, and the last step."""
    return [*range(interval_steps, max_steps, interval_steps), max_steps]


def checkpoint_name(step: int, max_steps: int) -> str:
    """A checkpoint's name in artifacts: `step-500`, or `final` for the last."""
    return "final" if step == max_steps else f"step-{step}"


def checkpoint_names(training: Mapping) -> list[str]:
    """The names of everything that is evaluated: `base`, then each checkpoint."""
    steps = checkpoint_steps(training["max_steps"], training["checkpoint_interval_steps"])
    return ["base", *(checkpoint_name(step, training["max_steps"]) for step in steps)]
