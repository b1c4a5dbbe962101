"""Attention over a cache of keys and values that lie side by side for each head, as decoding reads them.

Tunix 0.1.7 keeps them token by token, [B, S, K, H]: XLA's compiler for the CPU then turns all keys and values of every
layer around for each token, which took two fifths of a decoding step.
"""

import jax
import jax.numpy as jnp

HIDDEN = -2.3819763e38  # the logit of a key that is not seen, as Tunix's models have it


def empty_cache(config: object, rows: int, tokens: int, dtype: jnp.dtype) -> dict:
    """A cache of all layers: keys and values [B, K, S, H], and [B] how many places are taken, in all rows alike.

    Args:
      config: Tunix's, of any of its models.
      rows, tokens: B and S.
      dtype: the model's.
    """
    heads = (rows, config.num_kv_heads, tokens, config.head_dim)
    return {
        f"layer_{index}": {
            "k": jnp.zeros(heads, dtype),
            "v": jnp.zeros(heads, dtype),
            "end_index": jnp.zeros((rows,), jnp.int32),
        }
        for index in range(config.num_layers)
    }


def spread(cache: dict, copies: int, tokens: int) -> dict:
    """The same cache with each row `copies` times, copies beside each other, and with room for `tokens` more."""

    def of(leaf: jax.Array) -> jax.Array:
        leaf = jnp.repeat(leaf, copies, axis=0)
        return leaf if leaf.ndim == 1 else jnp.pad(leaf, ((0, 0), (0, 0), (0, tokens), (0, 0)))

    return jax.tree.map(of, cache)


def over_cache(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cache: dict,
    mask: jax.Array,
    softcap: float | None = None,
    precision: jnp.dtype | None = None,
) -> tuple[jax.Array, dict]:
    """Attention of some new tokens to those in a layer's cache and to each other.

    Args:
      query: [B, T, N, H], scaled.
      key, value: [B, T, K, H] of the new tokens; K divides N.
      cache: the layer's part of `empty_cache`.
      mask: [B, T, S] which places each query sees.
      softcap: Gemma 2's, of the logits.
      precision: what the softmax computes in; None is the query's.

    Returns:
      (what is read, [B, T, N, H]; the cache with the new tokens in it).
    """
    rows, tokens, heads, size = query.shape
    groups = heads // key.shape[2]
    place = (0, 0, cache["end_index"][0], 0)
    keys, values = (
        jax.lax.dynamic_update_slice(cache[name], new.swapaxes(1, 2), place) for name, new in (("k", key), ("v", value))
    )
    query = (
        query.reshape(rows, tokens, -1, groups, size).transpose(0, 2, 1, 3, 4).reshape(rows, -1, tokens * groups, size)
    )
    if tokens == 1:  # many keys, few queries: the larger comes first, or the product takes twice the time
        logits = jnp.einsum("bksh,bkqh->bksq", keys, query).swapaxes(2, 3)
    else:
        logits = jnp.einsum("bkqh,bksh->bkqs", query, keys)
    if softcap:
        logits = jnp.tanh(logits / softcap) * softcap
    logits = logits.reshape(rows, -1, tokens, groups, logits.shape[-1]).astype(precision or logits.dtype)
    weights = jax.nn.softmax(jnp.where(mask[:, None, :, None], logits, HIDDEN), axis=-1).astype(values.dtype)
    read = jnp.einsum("bkqs,bksh->bkqh", weights.reshape(rows, -1, tokens * groups, weights.shape[-1]), values)
    read = read.reshape(rows, -1, tokens, groups, size).transpose(0, 2, 1, 3, 4).reshape(rows, tokens, heads, size)
    return read, {"k": keys, "v": values, "end_index": cache["end_index"] + tokens}
