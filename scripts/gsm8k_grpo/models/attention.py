"""Attention over a cache that stores keys, [B, K, H, S], and values, [B, K, S, H], in the order decoding multiplies.

Tunix 0.1.7 stores both token by token, [B, S, K, H]. XLA's CPU compiler then transposes the keys and values of every
layer for each new token.

The cache is a ring: the place after the last one is the first. All rows write at the same place, so that a new token is
one slice of the cache. Rows have different numbers of tokens before that place, and a mask hides the other places. So a
row can end and give its part of the cache to another one at any time.
"""

import jax
import jax.numpy as jnp

from gsm8k_grpo.models.packing import Packed

MASKED_LOGIT = -2.3819763e38  # the logit of a masked key, as in Tunix's models


def empty_cache(config: object, rows: int, tokens: int, dtype: jnp.dtype) -> dict:
    """Makes an empty cache of all layers: keys, values, and [B] the number of places written so far, equal in all rows.

    The next place to write is that number modulo S.

    Args:
      config: of any Tunix model.
      rows, tokens: B and S.
      dtype: the model's.
    """
    heads, head_dim = (rows, config.num_kv_heads), config.head_dim
    return {
        f"layer_{index}": {
            "k": jnp.zeros((*heads, head_dim, tokens), dtype),
            "v": jnp.zeros((*heads, tokens, head_dim), dtype),
            "end_index": jnp.zeros((rows,), jnp.int32),
        }
        for index in range(config.num_layers)
    }


def repeat_and_extend(cache: dict, copies: int, tokens: int, dtype: jnp.dtype | None = None) -> dict:
    """Repeats each row of a cache `copies` times, copies side by side, and adds room for `tokens` more tokens.

    Keys and values get the precision `dtype`; None keeps theirs.
    """
    pads = {"k": ((0, 0), (0, 0), (0, 0), (0, tokens)), "v": ((0, 0), (0, 0), (0, tokens), (0, 0)), "end_index": (0, 0)}

    def extended(name: str, leaf: jax.Array) -> jax.Array:
        leaf = jnp.pad(jnp.repeat(leaf, copies, axis=0), pads[name])
        return leaf if name == "end_index" else leaf.astype(dtype or leaf.dtype)

    return {layer: {name: extended(name, leaf) for name, leaf in leaves.items()} for layer, leaves in cache.items()}


def shift(cache: dict, places: jax.Array) -> dict:
    """Moves each row's tokens by its own number of places, [B], to the end. What leaves enters at the beginning."""

    def shifted(leaves: dict) -> dict:
        keys, values = (
            jax.vmap(jnp.roll, (0, 0, None))(leaves[name], places, axis) for name, axis in (("k", 2), ("v", 1))
        )
        return {**leaves, "k": keys, "v": values}

    return {layer: shifted(leaves) for layer, leaves in cache.items()}


def resize(cache: dict, tokens: int) -> dict:
    """Moves a ring's newest tokens into a ring of S = `tokens` places."""

    def resized(leaves: dict) -> dict:
        places, shift = leaves["v"].shape[2], -leaves["end_index"][0]
        keys, values = (jnp.roll(leaves[name], shift, axis) for name, axis in (("k", 3), ("v", 2)))  # oldest first
        more, dropped = max(tokens - places, 0), max(places - tokens, 0)
        return {
            "k": jnp.pad(keys[..., dropped:], ((0, 0), (0, 0), (0, 0), (0, more))),
            "v": jnp.pad(values[:, :, dropped:], ((0, 0), (0, 0), (0, more), (0, 0))),
            "end_index": jnp.full_like(leaves["end_index"], min(places, tokens)),
        }

    return {layer: resized(leaves) for layer, leaves in cache.items()}


def insert(cache: dict, new: dict, rows: jax.Array) -> dict:
    """Puts other rows into a ring, so that their tokens end before the next place to write.

    Args:
      cache: the ring, of S places.
      new: a cache of R rows that is full: its places, at most S, are all written.
      rows: [R] of the ring, which the new ones replace.
    """

    def inserted(leaves: dict, given: dict) -> dict:
        end, missing = leaves["end_index"][0], leaves["v"].shape[2] - given["v"].shape[2]
        keys = jnp.roll(jnp.pad(given["k"], ((0, 0), (0, 0), (0, 0), (missing, 0))), end, 3)
        values = jnp.roll(jnp.pad(given["v"], ((0, 0), (0, 0), (missing, 0), (0, 0))), end, 2)
        return {**leaves, "k": leaves["k"].at[rows].set(keys), "v": leaves["v"].at[rows].set(values)}

    return {layer: inserted(leaves, new[layer]) for layer, leaves in cache.items()}


def token_ages(cache: dict, tokens: int = 1) -> jax.Array:
    """Counts how many places lie between each of the next `tokens` tokens, T, and each place of a layer's ring.

    Returns:
      [T, S]; 0 is the token's own place.
    """
    places = cache["v"].shape[2]
    return (cache["end_index"][0] + jnp.arange(tokens)[:, None] - jnp.arange(places)) % places


def with_packed_tokens(cache: dict, packed: Packed) -> dict:
    """Tells a cache that its new tokens come packed."""
    return {layer: {**leaves, "packed": packed} for layer, leaves in cache.items()}


def cached_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cache: dict,
    mask: jax.Array,
    softcap: float | None = None,
    precision: jnp.dtype | None = None,
) -> tuple[jax.Array, dict]:
    """Attends from new tokens to the tokens in a layer's cache and to each other.

    Args:
      query: [B, T, N, H], scaled; [1, M, N, H] where the cache's entry `packed` is a `Packed`.
      key, value: [B, T, K, H] of the new tokens, or [1, M, K, H]; K divides N.
      cache: the layer's part of `empty_cache`, of the query's precision or a higher one; several tokens must not wrap
        around its end.
      mask: [B, T, S] which places each query sees.
      softcap: of the logits, as in Gemma 2; None is no cap.
      precision: of the softmax; None is the query's.

    Returns:
      (the attention's output, of the query's shape; the cache with the new tokens in it).
    """
    if packed := cache.get("packed"):
        rows = cache["end_index"].shape[0]
        query, key, value = (packed.unpack(each, rows) for each in (query, key, value))
    rows, tokens, heads, head_dim = query.shape
    groups = heads // key.shape[2]
    place = cache["end_index"][0] % cache["v"].shape[2]
    new_keys, new_values = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
    keys = jax.lax.dynamic_update_slice(cache["k"], new_keys.astype(cache["k"].dtype), (0, 0, 0, place))
    values = jax.lax.dynamic_update_slice(cache["v"], new_values.astype(cache["v"].dtype), (0, 0, place, 0))
    dtype = query.dtype
    query = (
        query.reshape(rows, tokens, -1, groups, head_dim)
        .transpose(0, 2, 1, 3, 4)
        .reshape(rows, -1, tokens * groups, head_dim)
    )
    logits = jnp.einsum("bkqh,bkhs->bkqs", query, keys).astype(dtype)
    if softcap:
        logits = jnp.tanh(logits / softcap) * softcap
    logits = logits.reshape(rows, -1, tokens, groups, logits.shape[-1]).astype(precision or logits.dtype)
    weights = jax.nn.softmax(jnp.where(mask[:, None, :, None], logits, MASKED_LOGIT), axis=-1).astype(dtype)
    weights = weights.reshape(rows, -1, tokens * groups, weights.shape[-1])
    read = jnp.einsum("bkqs,bksh->bkqh", weights, values).astype(dtype)
    read = read.reshape(rows, -1, tokens, groups, head_dim).transpose(0, 2, 1, 3, 4)
    read = read.reshape(rows, tokens, heads, head_dim)
    if packed:
        read = packed.pack(read)
    return read, {**cache, "k": keys, "v": values, "end_index": cache["end_index"] + tokens}
