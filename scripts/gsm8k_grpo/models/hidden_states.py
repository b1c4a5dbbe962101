"""Forward passes of Tunix's models, with logits of no place but those that are wanted."""

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.rl import common

from gsm8k_grpo.models import attention


def compute_hidden_states(
    model: nnx.Module, ids: jax.Array, places: jax.Array, cache: dict, mask: jax.Array
) -> tuple[jax.Array, dict]:
    """The last layer's output, [B, T, D], and the cache with the keys and values of these tokens.

    The logits that Tunix's models also return are never computed: nothing reads them.

    Args:
      ids, places: [B, T] tokens and their positions.
      cache: of `attention.empty_cache`, with room for them.
      mask: [B, T, S] which places of the cache each of them sees.
    """

    @nnx.capture(nnx.Intermediate)
    def forward(model: nnx.Module) -> tuple:
        return model(ids, places, cache, mask, output_hidden_states=True)

    (_, cache), kept = forward(model)
    return kept["all_hidden_states"][-1], cache


def prefill(model: nnx.Module, ids: jax.Array, pad_id: int) -> tuple[jax.Array, jax.Array, dict]:
    """What completions need of left-padded prompts, [N, P].

    Returns:
      (the last layer's output at each prompt's last place, [N, 1, D]; which tokens are no padding, [N, P]; the cache).
    """
    real = ids != pad_id
    mask = real[:, None, :] & jnp.tri(ids.shape[1], dtype=bool)
    cache = attention.empty_cache(model.config, *ids.shape, model.embedder.input_embedding.dtype)
    hidden, cache = compute_hidden_states(model, ids, common.build_positions_from_mask(real), cache, mask)
    return hidden[:, -1:], real, cache


def output_logits(model: nnx.Module, hidden: jax.Array) -> jax.Array:
    """[…, V] of the last layer's output, […, D]."""
    found = model.embedder.decode(hidden)
    if cap := getattr(model, "final_logits_softcap", None):
        found = jnp.tanh(found / cap) * cap
    return found
