"""The GRPO loss that Tunix's trainer differentiates."""

import flax
import jax
import jax.numpy as jnp
from flax import nnx
from tunix.rl import common, function_registry

from gsm8k_grpo.grpo import formulas
from gsm8k_grpo.models import log_probs

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
    logps, entropies = log_probs.completion_log_probs(
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
    loss, kl, clipped = formulas.surrogate(
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
