"""The GRPO loss that Tunix's trainer differentiates. The variants that it chooses from: common/estimators.py."""

import flax
import jax
import jax.numpy as jnp
from flax import nnx
from tunix.rl import common, function_registry

from gsm8k_grpo.common import estimators
from gsm8k_grpo.models import log_probs

LOSS = "gsm8k_grpo"  # the loss's name in Tunix's registry


@flax.struct.dataclass(frozen=True)
class TrainExample(common.TrainExample):
    """Tunix's training example, a micro-batch, with the weights that aggregation over a whole mini-batch needs.

    Attributes:
      prompt_ids, prompt_mask: [N, P]. Each prompt stands once for its B / N completions, which are neighbours.
      loss_weights: [B, T] the factor of each token in the loss; see `estimators.loss_weights`.
      mean_weights: [B, T] the factor of each token in the metrics, which are means over all tokens of the mini-batch.
      packed_places: [M] which of the completions' tokens are computed; see `log_probs.completion_log_probs`.
      dropout_key: [K] uint32 key data of LoRA's dropout, or None without dropout.
    """

    loss_weights: jax.Array | None = None
    mean_weights: jax.Array | None = None
    packed_places: jax.Array | None = None
    dropout_key: jax.Array | None = None


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
    """The negated objective of each token: the clipped policy gradient and the KL penalty.

    DeepSeekMath (arXiv 2402.03300), eq. 3.

    Args:
      logps, old_logps, ref_logps: [B, T] log-probs under the policy, the old policy (which sampled) and the reference
        (None without a penalty).
      advantages: [B].
      epsilon, epsilon_high: the ratio is clipped to 1 − ε … 1 + ε_high (clip-higher: DAPO, arXiv 2503.14476, eq. 8).
      beta: β, the weight of the penalty.
      kl_estimator: a name in `KL_ESTIMATORS`.

    Returns:
      (loss, KL, whether clipping removes the token's gradient), each [B, T].
    """
    ratio = jnp.exp(logps - old_logps)
    weighted = ratio * advantages[:, None]
    clipped = jnp.clip(ratio, 1.0 - epsilon, 1.0 + epsilon_high) * advantages[:, None]
    kl = jnp.zeros_like(logps) if ref_logps is None else estimators.kl_per_token(ref_logps - logps, kl_estimator)
    return beta * kl - jnp.minimum(weighted, clipped), kl, clipped < weighted


@function_registry.register_policy_loss_fn(LOSS)
def policy_loss(model: nnx.Module, train_example: TrainExample, algo_config, pad_id: int, **_) -> tuple:
    """A micro-batch's share of the mini-batch's loss, times the number of micro-batches.

    Tunix's trainer calls it by these parameter names.

    Returns:
      (scalar loss, {kl, entropy, pg_clipfrac: scalars}).
    """
    example = train_example
    if example.dropout_key is not None:
        # The random state goes into a copy. In the trainer's own model, checkpoints would have to hold it. Each layer
        # has its own, because layers that run as a loop each count their draws from 0.
        model, key = nnx.merge(*nnx.split(model)), jax.random.wrap_key_data(example.dropout_key)
        for index, layer in enumerate(model.layers):
            layer.set_attributes(qwix_rngs=nnx.Rngs(dropout=jax.random.fold_in(key, index)))
    logps, entropies = log_probs.completion_log_probs(
        model,
        example.prompt_ids,
        example.completion_ids,
        example.packed_places,
        pad_id,
        algo_config.temperature,
    )
    old_logps, ref_logps = example.old_per_token_logps, example.ref_per_token_logps
    # Padding has weight 0, but 0 · ∞ is NaN if exp overflows. So the log-probs of padding are set to 0.
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

    metrics = {"kl": mean(kl), "entropy": mean(entropies), "pg_clipfrac": mean(clipped)}
    return jnp.sum(example.loss_weights * loss), metrics
