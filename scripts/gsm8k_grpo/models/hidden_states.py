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


def prefill_after(model: nnx.Module, prefix: dict, ids: jax.Array, pad_id: int) -> tuple[jax.Array, jax.Array, dict]:
    """Does what `prefill` does for prompts that begin alike, from the cache of that beginning.

    Args:
      prefix: the cache of one row of S tokens, without padding.
      ids: [N, R] what follows it in each prompt, right-padded, so that no row has a gap.

    Returns:
      as `prefill` for left-padded prompts of P = S + R places: ([N, 1, D], [N, P], the cache).
    """
    rows, tokens = ids.shape
    shared = prefix["layer_0"]["v"].shape[2]
    lengths = jnp.sum(ids != pad_id, axis=1)
    mask = jnp.concatenate([jnp.ones((tokens, shared), bool), jnp.tri(tokens, dtype=bool)], axis=1)
    hidden, cache = compute_hidden_states(
        model,
        ids,
        jnp.broadcast_to(shared + jnp.arange(tokens), ids.shape),
        attention.repeat_and_extend(prefix, rows, tokens),
        jnp.broadcast_to(mask, (rows, *mask.shape)),
    )
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)
    real = jnp.arange(shared + tokens) >= (tokens - lengths)[:, None]
    return last, real, attention.shift(cache, tokens - lengths)
