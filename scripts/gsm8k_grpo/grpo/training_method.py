"""The two methods of training: GRPO, and rejection sampling, which is the plainer one to compare it with."""

from collections.abc import Mapping, Sequence

import numpy as np

from gsm8k_grpo.common import estimators
from gsm8k_grpo.grpo.groups import Group
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

REJECTION_SAMPLING = "rejection_sampling"
METHOD_TITLES = {"grpo": "GRPO", REJECTION_SAMPLING: "rejection sampling"}  # in sentences, by `training.method`


def settings_of_step(training_settings: Mapping, step: int) -> Mapping:
    """The block `training` as it holds in a step (0-based): the steps of a warm start are rejection sampling."""
    if step >= training_settings["warm_start_steps"]:
        return training_settings
    return {**training_settings, "method": REJECTION_SAMPLING, "beta": 0, "dynamic_sampling_draws": 0}


def samples_from_base(training_settings: Mapping) -> bool:
    """Whether the base model samples the completions, not the policy; of settings that hold in a step."""
    return training_settings["method"] == REJECTION_SAMPLING


def completion_advantages(groups: Sequence[Group], training_settings: Mapping, tags: Tags) -> np.ndarray:
    """The advantage of each completion; one with 0 teaches nothing.

    GRPO's come from rewards. Rejection sampling's are 1 for what it keeps and else 0. Where the ratio to the old policy
    is 1, the policy gradient with them is the gradient of the kept completions' log-likelihood. So it is supervised
    fine-tuning on the base model's own right completions (RFT, arXiv 2308.01825, with one round and no duplicates
    removed).

    Args:
      groups: N groups of G completions.

    Returns:
      [N · G] float32.
    """
    if training_settings["method"] == REJECTION_SAMPLING:
        return np.concatenate([kept(group, tags) for group in groups]).astype(np.float32)
    totals = np.concatenate([group.total_rewards for group in groups])
    return estimators.advantages(totals, training_settings["num_generations"], training_settings["advantage_estimator"])


def kept(group: Group, tags: Tags) -> np.ndarray:
    """[G] whether rejection sampling keeps a completion: it has the exact format and the right answer."""
    gold = answers.gold_of(group.row)
    return np.array(
        [answers.has_format(text, tags) and answers.strict(text, tags) == gold for text in group.completions]
    )
