"""Forward passes of Tunix's models that compute logits only where they are needed."""

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.rl import common

from gsm8k_grpo.models import attention


def compute_hidden_states(
    model: nnx.Module, ids: jax.Array, places: jax.Array, cache: dict, mask: jax.Array
) -> tuple[jax.Array, dict]:
    """Computes the last layer's output and the cache that holds the keys and values of these tokens.

    Tunix's models return logits too. The compiler drops them because nothing reads them.

    Args:
      ids, places: [B, T] tokens and their positions.
      cache: of `attention.empty_cache`, with room for the tokens.
      mask: [B, T, S] which places of the cache each token sees.

    Returns:
      ([B, T, D], the new cache).
    """

    @nnx.capture(nnx.Intermediate)
    def forward(model: nnx.Module) -> tuple:
        return model(ids, places, cache, mask, output_hidden_states=True)

    (_, cache), kept = forward(model)
    return kept["all_hidden_states"][-1], cache


def prefill(model: nnx.Module, ids: jax.Array, pad_id: int) -> tuple[jax.Array, jax.Array, dict]:
    """Computes what completions need of left-padded prompts, [N, P].

    Returns:
      (the last layer's output at each prompt's last place, [N, 1, D]; which tokens are not padding, [N, P]; the cache).
    """
    real = ids != pad_id
    mask = real[:, None, :] & jnp.tri(ids.shape[1], dtype=bool)
    cache = attention.empty_cache(model.config, *ids.shape, model.embedder.input_embedding.dtype)
    hidden, cache = compute_hidden_states(model, ids, common.build_positions_from_mask(real), cache, mask)
    return hidden[:, -1:], real, cache
