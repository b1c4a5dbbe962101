"""The variants of GRPO as functions, in registries whose names are the values of the settings.

To add a variant, write its function and put it into its registry; CONTRIBUTING.md lists what follows. The rules check
settings by these names, so this module does not import JAX.

Sources: DeepSeekMath (arXiv 2402.03300), Dr. GRPO (2503.20783), DAPO (2503.14476), RLOO (2402.14740) and Schulman,
Approximating KL Divergence (2020).
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def normalised_by_group(rewards: np.ndarray) -> np.ndarray:
    """(r − mean) / standard deviation (DeepSeekMath, section 4.1.2), the sample's, as in TRL, verl and Tunix."""
    return centred_on_group(rewards) / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-6)


def left_one_out(rewards: np.ndarray) -> np.ndarray:
    """r − mean of the group's other rewards (RLOO)."""
    return centred_on_group(rewards) * (rewards.shape[1] / (rewards.shape[1] - 1))


def centred_on_group(rewards: np.ndarray) -> np.ndarray:
    """r − mean (Dr. GRPO, section 3.2)."""
    return rewards - rewards.mean(axis=1, keepdims=True)


# [prompts, G] float64 rewards → advantages of the same shape.
ADVANTAGE_ESTIMATORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "grpo": normalised_by_group,
    "rloo": left_one_out,
    "drgrpo": centred_on_group,
}


def advantages(rewards: np.ndarray, generations: int, estimator: str) -> np.ndarray:
    """How much better than its group each completion is, by one of `ADVANTAGE_ESTIMATORS`.

    Args:
      rewards: [prompts · generations] total rewards, the completions of one prompt next to each other.
      generations: G.

    Returns:
      [prompts · generations] float32; 0 in groups whose rewards are all equal.

    Raises:
      ValueError: there is no such estimator.
    """
    groups = np.asarray(rewards, np.float64).reshape(-1, generations)
    estimated = _registered(ADVANTAGE_ESTIMATORS, "advantage estimator", estimator)(groups)
    equal = np.ptp(groups, axis=1, keepdims=True) == 0  # their mean may differ from them in the last bit
    return np.where(equal, 0.0, estimated).reshape(-1).astype(np.float32)


def sequence_weights(mask: np.ndarray, max_completion_tokens: int) -> np.ndarray:
    """The mean over completions of the means over their tokens (DeepSeekMath, eq. 3)."""
    return mask / np.maximum(mask.sum(axis=1, keepdims=True), 1) / _count_completions(mask)


def token_weights(mask: np.ndarray, max_completion_tokens: int) -> np.ndarray:
    """The mean over all tokens (DAPO, eq. 8)."""
    return mask / max(1.0, mask.sum())


def constant_weights(mask: np.ndarray, max_completion_tokens: int) -> np.ndarray:
    """The mean over completions of the sums over their tokens, by a constant length (Dr. GRPO, section 3.2)."""
    return mask / max_completion_tokens / _count_completions(mask)


def _count_completions(mask: np.ndarray) -> int:
    return max(1, np.count_nonzero(mask.sum(axis=1)))


# [B, T] float64 mask of the tokens of a mini-batch that count, and max_completion_tokens → weights of the mask's shape.
LOSS_AGGREGATIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "sequence": sequence_weights,
    "token": token_weights,
    "constant": constant_weights,
}


def loss_weights(mask: np.ndarray, aggregation: str, max_completion_tokens: int) -> np.ndarray:
    """The factor of each token's loss in the sum over a whole mini-batch, by one of `LOSS_AGGREGATIONS`.

    Args:
      mask: [B, T] true where a token counts. A row without such a token is in no denominator either.

    Returns:
      [B, T] float32.

    Raises:
      ValueError: there is no such aggregation.
    """
    weigh = _registered(LOSS_AGGREGATIONS, "loss aggregation", aggregation)
    return weigh(np.asarray(mask, np.float64), max_completion_tokens).astype(np.float32)


def k2(log_ratio: Any) -> Any:
    """(log r)² / 2. Its gradient is that of the exact KL where the policy itself drew the tokens."""
    import jax.numpy as jnp

    return 0.5 * jnp.square(log_ratio)


def k3(log_ratio: Any) -> Any:
    """r − 1 − log r (DeepSeekMath, eq. 4)."""
    import jax.numpy as jnp

    return jnp.exp(log_ratio) - log_ratio - 1.0


# log r = log π_ref − log π of sampled tokens, a JAX array → Schulman's estimates of their KL(policy ‖ reference). k1 =
# −log r, the default of Tunix 0.1.7, is not here: as a loss it has no gradient in expectation.
KL_ESTIMATORS: dict[str, Callable[[Any], Any]] = {"k2": k2, "k3": k3}


def kl_per_token(log_ratio: Any, estimator: str) -> Any:
    """Each token's KL divergence from the reference, by one of `KL_ESTIMATORS`; ValueError if there is no such one."""
    return _registered(KL_ESTIMATORS, "KL estimator", estimator)(log_ratio)


def overlong_penalties(lengths_tokens: np.ndarray, max_completion_tokens: int, buffer_tokens: int) -> np.ndarray:
    """DAPO's soft overlong punishment (eq. 13): 0 up to limit − buffer, then falling linearly to −1 at the limit.

    Args:
      lengths_tokens: [B] length of each completion, the stop token included.
      buffer_tokens: L_cache, at least 1.
    """
    over = np.asarray(lengths_tokens, np.float64) - (max_completion_tokens - buffer_tokens)
    return 0.0 - np.clip(over / buffer_tokens, 0.0, 1.0)


def _registered(registry: dict[str, Callable], kind: str, name: str) -> Callable:
    if name not in registry:
        raise ValueError(f"{kind} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]
