"""Checks of a training run's metrics: which values stop the run, and which deserve a warning."""

import math
import statistics
from collections.abc import Callable, Mapping

from gsm8k_grpo.common.errors import PipelineError

WINDOW_STEPS = 20  # a gradient norm is compared with the median of this many steps before it
EXPLOSION_FACTOR = 10  # times that median
FIRST_WARNING_STEPS = 5  # a run without signal is warned about after this many steps,
WARNING_INTERVAL_STEPS = 50  # and again after each further interval
# The reasoning of so many steps is compared with that of the run's first ones: enough completions that a mean is no
# accident, and few enough that the first ones are still the base model's.
REASONING_STEPS = 5
# The share of the first level below which reasoning has collapsed. Healthy runs become briefer too, and some halve it.
COLLAPSED_SHARE = 1 / 3
LEAST_REASONING = 0.5  # words or calculations a completion; a run that starts with less has nothing to lose
# Calculated answers of so many steps are compared with those of the steps that had most of them: a base model that
# misses the tags has few, and gets more by learning. Over ten steps of 8 completions, chance makes no such fall from
# the least share.
CALCULATED_STEPS = 10
LEAST_CALCULATED = 0.5  # of the completions, whose last calculation gives their answer
# Ratio and KL take the softmax over all tokens. Up to here it is hardly another distribution than the one sampled from.
UNSAMPLED_MASS = 0.01


def require_finite(row: dict) -> None:
    """Stops a run whose loss, gradient norm or KL is NaN or infinite.

    Raises:
      PipelineError: names the step and the settings to change. The caller saves nothing of that step.
    """
    infinite = [name for name in ("loss", "gradient_norm", "kl") if not math.isfinite(row[name] or 0.0)]
    if infinite:
        values = ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in infinite)
        raise PipelineError(
            f"step {row['step']}: {values} is not finite, so training stopped after the last checkpoint; lower "
            "training.learning_rate or training.max_gradient_norm, or train in float32 (model.dtype)"
        )


def settings_warnings(training_settings: Mapping) -> list[str]:
    """The warnings that the block `training` gives rise to before the first step."""
    normalised = training_settings["method"] == "grpo" and training_settings["advantage_estimator"] == "grpo"
    if normalised and training_settings["num_generations"] == 2:
        return [
            "training.advantage_estimator: with num_generations 2, grpo turns any gap of rewards, 0.001 or 3, into "
            "± 0.707; rloo and drgrpo keep the gap"
        ]
    return []


def warnings(history: list[dict]) -> list[str]:
    """The warnings that the newest row of a run gives rise to.

    Args:
      history: the rows of all steps so far.
    """
    row, earlier_norms = history[-1], [row["gradient_norm"] for row in history[-WINDOW_STEPS - 1 : -1]]
    messages = []
    median = statistics.median(earlier_norms) if len(earlier_norms) >= FIRST_WARNING_STEPS else 0.0
    if median and row["gradient_norm"] > EXPLOSION_FACTOR * median:
        messages.append(
            f"step {row['step']}: the gradient explodes: its norm is {row['gradient_norm']:.3g}, the median of the "
            f"last {len(earlier_norms)} steps was {median:.3g}; if this continues, lower training.learning_rate or "
            "training.max_gradient_norm"
        )
    no_signal = _newest_steps(
        history, lambda each: each["groups_without_signal"] == 1.0 and not each["groups_replaced"]
    )
    if _warns_after(no_signal):
        messages.append(
            f"step {row['step']}: nothing is learned: for {no_signal} steps, no group has had a signal. With method "
            "grpo, all completions of each prompt earned the same reward; with rejection_sampling, none was right. If "
            f"the reward is low (mean now {row['reward']:.3g}), the base model never does what is rewarded: change "
            "prompt.system or training.rewards, set training.warm_start_steps, or raise training.temperature or "
            "training.num_generations. If it is high, the questions are too easy: use harder "
            "ones"
        )
    no_gradient = _newest_steps(history, lambda each: each["gradient_norm"] == 0.0)
    if _warns_after(no_gradient) and not no_signal:
        messages.append(
            f"step {row['step']}: nothing is learned: for {no_gradient} steps the gradient was exactly 0, and "
            f"{row['truncated_rate']:.0%} of the completions were cut at the limit; raise "
            "training.max_completion_tokens, or set training.truncated_completions to keep"
        )
    if _newly(history, _reasoning_collapsed):
        first, newest = (_means(rows) for rows in (history[:REASONING_STEPS], history[-REASONING_STEPS:]))
        messages.append(
            f"step {row['step']}: the reasoning collapses: a completion of the last {REASONING_STEPS} steps has "
            f"{newest['reasoning_words']:.1f} words between the reasoning tags and {newest['calculations']:.1f} "
            f"calculations, one of the first {REASONING_STEPS} had {first['reasoning_words']:.1f} and "
            f"{first['calculations']:.1f}, and the mean reward is no lower ({first['reward']:.3g}, now "
            f"{newest['reward']:.3g}); training.rewards may pay for answers without reasoning: read "
            "training/samples.jsonl"
        )
    if _newly(history, _answers_uncalculated):
        most, newest = _most_calculated(history), history[-CALCULATED_STEPS:]
        before, now = (_mean(rows, "calculated_answers") for rows in (most, newest))
        messages.append(
            f"step {row['step']}: the reasoning no longer leads to the answer: the last calculation gives the answer "
            f"in {now:.0%} of the completions of the last {CALCULATED_STEPS} steps, and did in {before:.0%} of those "
            f"of steps {most[0]['step']} to {most[-1]['step']}; the mean reward is no lower "
            f"({_mean(most, 'reward'):.3g}, now {_mean(newest, 'reward'):.3g}). The model may reason for show, as with "
            "the same calculation in every completion: read training/samples.jsonl"
        )
    if _newly(history, lambda rows: rows[-1]["unsampled_mass"] > UNSAMPLED_MASS):
        messages.append(
            f"step {row['step']}: sampling leaves out much: training.top_k and training.top_p leave out "
            f"{row['unsampled_mass']:.2%} of the probability, while ratio and KL count all of it; raise them, or lower "
            "training.temperature"
        )
    return messages


def _reasoning_collapsed(history: list[dict]) -> bool:
    """Whether words or calculations are far below the first steps' level, while the reward is not below its own."""
    if len(history) < 2 * REASONING_STEPS:
        return False
    first, newest = _means(history[:REASONING_STEPS]), _means(history[-REASONING_STEPS:])
    collapsed = any(
        first[name] >= LEAST_REASONING and newest[name] < COLLAPSED_SHARE * first[name]
        for name in ("reasoning_words", "calculations")
    )
    return collapsed and newest["reward"] >= first["reward"]


def _answers_uncalculated(history: list[dict]) -> bool:
    """Whether far fewer answers are calculated than in the steps with most, while the reward is not below theirs; not
    where the reasoning has collapsed, which says more."""
    if len(history) < 2 * CALCULATED_STEPS or _reasoning_collapsed(history):
        return False
    most, newest = _most_calculated(history), history[-CALCULATED_STEPS:]
    share = _mean(most, "calculated_answers")
    fallen = share >= LEAST_CALCULATED and _mean(newest, "calculated_answers") < COLLAPSED_SHARE * share
    return fallen and _mean(newest, "reward") >= _mean(most, "reward")


def _most_calculated(history: list[dict]) -> list[dict]:
    """Of each CALCULATED_STEPS steps before the newest ones, those with most calculated answers."""
    starts = range(0, len(history) - 2 * CALCULATED_STEPS + 1, CALCULATED_STEPS)
    return max(
        (history[start : start + CALCULATED_STEPS] for start in starts),
        key=lambda rows: _mean(rows, "calculated_answers"),
    )


def _mean(rows: list[dict], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _means(rows: list[dict]) -> dict[str, float]:
    """Means over some steps, of what tells a collapse."""
    return {name: _mean(rows, name) for name in ("reasoning_words", "calculations", "reward")}


def _newly(history: list[dict], holds: Callable[[list[dict]], bool]) -> bool:
    """Whether a condition of the history holds, and did at none of the steps before (or an interval has passed)."""
    steps = len(history)
    earlier = range(max(1, steps - WARNING_INTERVAL_STEPS + 1), steps)
    return holds(history) and (steps % WARNING_INTERVAL_STEPS == 0 or not any(holds(history[:end]) for end in earlier))


def _newest_steps(history: list[dict], holds: Callable[[dict], bool]) -> int:
    """The number of newest rows for which a condition holds without a gap."""
    return next((count for count, row in enumerate(reversed(history)) if not holds(row)), len(history))


def _warns_after(steps: int) -> bool:
    return steps % WARNING_INTERVAL_STEPS == FIRST_WARNING_STEPS
