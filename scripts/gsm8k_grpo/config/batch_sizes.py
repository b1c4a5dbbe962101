"""How many completions a training step has, and how many of them are sampled, or differentiated, at a time."""

from collections.abc import Mapping


def step_completions(training_settings: Mapping) -> int:
    """The completions of a step, G for each prompt."""
    return training_settings["prompts_per_step"] * training_settings["num_generations"]


def rollout_batch(training_settings: Mapping) -> int:
    """How many completions a rollout samples at a time."""
    return training_settings["rollout_batch_completions"] or step_completions(training_settings)


def micro_batch(training_settings: Mapping) -> int:
    """How many completions' gradients are computed at a time."""
    return training_settings["micro_batch_completions"] or step_completions(training_settings)
