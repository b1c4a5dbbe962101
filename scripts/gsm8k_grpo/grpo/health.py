"""Whether a training run goes wrong, seen from its rows: what to say, and when to stop."""

import math
import statistics
from collections.abc import Callable

from gsm8k_grpo.common.errors import PipelineError

WINDOW_STEPS = 20  # a gradient is held against the median of so many steps before it
EXPLODED = 10  # times that median
FLAT_STEPS = 5  # without any signal
REPEAT_STEPS = 50  # until the same is said again


def require_finite(row: dict) -> None:
    """Stops a run whose loss or gradient is no number.

    Raises:
      PipelineError: naming the step and what to change. Nothing of that step is saved.
    """
    wrong = [name for name in ("loss", "gradient_norm", "kl") if not math.isfinite(row[name] or 0.0)]
    if wrong:
        figures = ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in wrong)
        raise PipelineError(
            f"step {row['step']}: {figures}; training stopped, the last checkpoint stands. Lower "
            "training.learning_rate or training.max_gradient_norm, or train in float32 (model.dtype)"
        )


def warnings(history: list[dict]) -> list[str]:
    """What is to be said after the newest row of a run.

    Args:
      history: the rows of all steps so far.
    """
    row, before = history[-1], [row["gradient_norm"] for row in history[-WINDOW_STEPS - 1 : -1]]
    said = []
    usual = statistics.median(before) if len(before) >= FLAT_STEPS else 0.0
    if usual and row["gradient_norm"] > EXPLODED * usual:
        said.append(
            f"step {row['step']}: the gradient explodes: its norm is {row['gradient_norm']:.3g}, the median of the "
            f"last {len(before)} steps was {usual:.3g}; if that goes on, lower training.learning_rate or "
            "training.max_gradient_norm"
        )
    flat = _streak(history, lambda each: each["groups_without_signal"] == 1.0 and not each["groups_replaced"])
    if flat and flat % REPEAT_STEPS == FLAT_STEPS:
        said.append(
            f"step {row['step']}: nothing is learned: for {flat} steps, all completions of each prompt earned the same "
            f"reward (mean now {row['reward']:.3g}), so no group has a signal. Where it is low, the base never does "
            "what is rewarded: change prompt.system or training.rewards, raise training.temperature or "
            "training.num_generations; where it is high, nothing is left to learn: harder questions"
        )
    still = _streak(history, lambda each: each["gradient_norm"] == 0.0)
    if still and still % REPEAT_STEPS == FLAT_STEPS and not flat:
        said.append(
            f"step {row['step']}: nothing is learned: for {still} steps the gradient was exactly 0, and "
            f"{row['truncated_rate']:.0%} of the completions were cut at the limit; raise "
            "training.max_completion_tokens, or let training.truncated_completions be keep"
        )
    return said


def _streak(history: list[dict], holds: Callable[[dict], bool]) -> int:
    """For how many of the newest rows something holds."""
    return next((count for count, row in enumerate(reversed(history)) if not holds(row)), len(history))
