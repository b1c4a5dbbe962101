"""Which checkpoints a run keeps, by step and by name. Settings alone decide: the rules need to know before training.

`keep_checkpoints` keeps the last ones. It cannot keep the best: the stage that evaluates dev rows comes after training,
and what training has deleted by then was never measured. So the best is chosen among those that are kept.

This module does not import JAX, because the rules use it too.
"""

from collections.abc import Mapping


def saved_steps(training: Mapping) -> list[int]:
    """The steps after which training writes a checkpoint: every `checkpoint_interval_steps`, and the last step."""
    last, interval = training["max_steps"], training["checkpoint_interval_steps"]
    return [*range(interval, last, interval), last]


def kept_steps(training: Mapping, up_to: int | None = None) -> list[int]:
    """The steps whose checkpoints are kept: the last `keep_checkpoints` of those saved, or all.

    Args:
      training: the block of settings.
      up_to: a step that training has come to; None is its end.
    """
    saved = [step for step in saved_steps(training) if up_to is None or step <= up_to]
    return saved[-training["keep_checkpoints"] :] if training["keep_checkpoints"] else saved


def checkpoint_name(step: int, max_steps: int) -> str:
    """A checkpoint's name in artifacts: `step-500`, or `final` for the last."""
    return "final" if step == max_steps else f"step-{step}"


def checkpoint_names(training: Mapping) -> list[str]:
    """The names of everything that is evaluated: `base`, then each checkpoint."""
    return ["base", *(checkpoint_name(step, training["max_steps"]) for step in kept_steps(training))]
