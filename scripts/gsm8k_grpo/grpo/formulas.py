"""GRPO's formulas: advantages, what each token weighs in the loss, and the loss that Tunix's trainer differentiates.

Sources: DeepSeekMath (arXiv 2402.03300, eq. 3 and 4), Dr. GRPO (2503.20783), DAPO (2503.14476), RLOO (2402.14740).
"""

import jax
import jax.numpy as jnp
import numpy as np


def advantages(rewards: np.ndarray, generations: int, estimator: str) -> np.ndarray:
    """How much better than its group each completion is.

    Args:
      rewards: [prompts · generations] total rewards, the completions of one prompt beside each other.
      generations: G.
      estimator: `grpo`: (r − mean) / standard deviation (DeepSeekMath, section 4.1.2; sample deviation, as TRL, verl
        and Tunix have it); `rloo`: r − mean of the others (leave-one-out); `drgrpo`: r − mean (Dr. GRPO, section 3.2).

    Returns:
      [prompts · generations] float32; 0 in groups whose rewards are all equal.
    """
    groups = np.asarray(rewards, np.float64).reshape(-1, generations)
    centred = groups - groups.mean(axis=1, keepdims=True)
    if estimator == "grpo":
        centred = centred / (groups.std(axis=1, ddof=1, keepdims=True) + 1e-6)
    elif estimator == "rloo":
        centred = centred * (generations / (generations - 1))
    elif estimator != "drgrpo":
        raise ValueError(f"advantage estimator {estimator!r}: expected grpo, rloo or drgrpo")
    centred[np.ptp(groups, axis=1) == 0] = 0.0  # a mean of equal numbers may differ from them in the last bit
    return centred.reshape(-1).astype(np.float32)


def loss_weights(mask: np.ndarray, aggregation: str, max_completion_tokens: int) -> np.ndarray:
    """What each token's loss is multiplied with before summing over a whole mini-batch.

    Args:
      mask: [B, T] true where a token counts. Rows without any such token count nowhere, in no denominator either.
      aggregation: `sequence`: mean over completions of their token means (DeepSeekMath, eq. 3); `token`: mean over all
        tokens (DAPO, eq. 8); `constant`: sum over a completion's tokens by a constant length, then mean over
        completions (Dr. GRPO, section 3.2).
      max_completion_tokens: the constant.

    Returns:
      [B, T] float32.
    """
    mask = np.asarray(mask, np.float64)
    lengths = mask.sum(axis=1, keepdims=True)
    completions = max(1, np.count_nonzero(lengths))
    if aggregation == "sequence":
        weights = mask / np.maximum(lengths, 1) / completions
    elif aggregation == "token":
        weights = mask / max(1.0, lengths.sum())
    elif aggregation == "constant":
        weights = mask / max_completion_tokens / completions
    else:
        raise ValueError(f"loss aggregation {aggregation!r}: expected sequence, token or constant")
    return weights.astype(np.float32)


def overlong_penalties(lengths: np.ndarray, max_completion_tokens: int, buffer_tokens: int) -> np.ndarray:
    """DAPO's soft overlong punishment (eq. 13), in tokens: 0 up to limit − buffer, then down to −1 at the limit.

    Args:
      lengths: [B] tokens of each completion, the stop token included.
      max_completion_tokens: the limit, L_max.
      buffer_tokens: L_cache, at least 1.
    """
    over = np.asarray(lengths, np.float64) - (max_completion_tokens - buffer_tokens)
    return 0.0 - np.clip(over / buffer_tokens, 0.0, 1.0)


def kl_per_token(logps: jax.Array, ref_logps: jax.Array, estimator: str) -> jax.Array:
    """Schulman's estimators of KL(policy ‖ reference) for each sampled token (Approximating KL Divergence, 2020).

    `k3`: r − 1 − log r with r = π_ref / π (DeepSeekMath, eq. 4); `k2`: (log r)² / 2, whose gradient is that of the
    exact KL where the tokens were drawn from the policy itself. (k1 = −log r, Tunix's default, has no gradient in
    expectation: as a loss it does nothing.)
    """
    log_ratio = ref_logps - logps
    if estimator == "k2":
        return 0.5 * jnp.square(log_ratio)
    if estimator == "k3":
        return jnp.exp(log_ratio) - log_ratio - 1.0
    raise ValueError(f"KL estimator {estimator!r}: expected k2 or k3")


def surrogate(
    logps: jax.Array,
    old_logps: jax.Array,
    ref_logps: jax.Array | None,
    advantages: jax.Array,
    epsilon: float,
    epsilon_high: float,
    beta: float,
    kl_estimator: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The negated objective of each token: clipped policy gradient, and the KL penalty (DeepSeekMath, eq. 3).

    Args:
      logps, old_logps, ref_logps: [B, T] of policy, old policy (which sampled) and reference (None without penalty).
      advantages: [B].
      epsilon, epsilon_high: the ratio is clipped to 1 − ε … 1 + ε_high (DAPO, eq. 8: clip-higher).
      beta: β.

    Returns:
      (loss, KL, whether clipping took this token's gradient), each [B, T].
    """
    ratio = jnp.exp(logps - old_logps)
    weighted = ratio * advantages[:, None]
    clipped = jnp.clip(ratio, 1.0 - epsilon, 1.0 + epsilon_high) * advantages[:, None]
    kl = jnp.zeros_like(logps) if ref_logps is None else kl_per_token(logps, ref_logps, kl_estimator)
    return beta * kl - jnp.minimum(weighted, clipped), kl, clipped < weighted
