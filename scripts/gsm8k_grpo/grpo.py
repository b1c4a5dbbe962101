"""GRPO's formulas: advantages, what each token weighs in the loss, and the loss that Tunix's trainer differentiates.

Sources: DeepSeekMath (arXiv 2402.03300, eq. 3 and 4), Dr. GRPO (2503.20783), DAPO (2503.14476), RLOO (2402.14740).
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import common, function_registry

from gsm8k_grpo import log_probs

LOSS = "gsm8k_grpo"  # the loss's name in Tunix's registry


@flax.struct.dataclass(frozen=True)
class TrainExample(common.TrainExample):
    """Tunix's training example with what aggregation over a whole mini-batch needs.

    Attributes:
      prompt_ids, prompt_mask: [N, P], a prompt once for its B / N completions, which are beside each other.
      loss_weights: [B, T] weight of each token in the loss; see `loss_weights`.
      mean_weights: [B, T] weight of each token in the figures, which are means over all tokens of the mini-batch.
      packed_places: [M] which of the completions' tokens are computed; see `log_probs.of_completions`.
      dropout_key: key data of LoRA's dropout, [K] of uint32, or None without dropout.
    """

    loss_weights: jax.Array | None = None
    mean_weights: jax.Array | None = None
    packed_places: jax.Array | None = None
    dropout_key: jax.Array | None = None


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


@function_registry.register_policy_loss_fn(LOSS)
def policy_loss(model: nnx.Module, train_example: TrainExample, algo_config, pad_id: int, **_) -> tuple:
    """The loss of a micro-batch, as Tunix's trainer calls it: its share of the mini-batch's, times their number.

    Returns:
      (scalar loss, {kl, entropy, pg_clipfrac: scalars}).
    """
    example = train_example
    if example.dropout_key is not None:
        # A copy: the trainer's own module stays free of random state, which a checkpoint would have to hold.
        model = nnx.merge(*nnx.split(model))
        model.set_attributes(qwix_rngs=nnx.Rngs(dropout=jax.random.wrap_key_data(example.dropout_key)))
    logps, entropies = log_probs.of_completions(
        model,
        example.prompt_ids,
        example.completion_ids,
        example.packed_places,
        pad_id,
        algo_config.temperature,
    )
    old_logps, ref_logps = example.old_per_token_logps, example.ref_per_token_logps
    # Padding weighs nothing, but 0 · ∞ would be NaN where exp overflows: there, all log-probs are 0.
    logps, old_logps, ref_logps = (
        None if each is None else jnp.where(example.mean_weights > 0, each, 0.0)
        for each in (logps, jax.lax.stop_gradient(logps) if old_logps is None else old_logps, ref_logps)
    )
    loss, kl, clipped = surrogate(
        logps,
        old_logps,
        ref_logps,
        example.advantages,
        algo_config.epsilon,
        algo_config.epsilon_high,
        algo_config.beta,
        algo_config.kl_loss_mode,
    )

    def mean(values: jax.Array) -> jax.Array:
        return jnp.sum(example.mean_weights * values)

    figures = {"kl": mean(kl), "entropy": mean(entropies), "pg_clipfrac": mean(clipped)}
    return jnp.sum(example.loss_weights * loss), figures
