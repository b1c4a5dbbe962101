"""Attention over a cache of keys, [B, K, H, S], and values, [B, K, S, H], that lie as decoding multiplies them.

Tunix 0.1.7 keeps both token by token, [B, S, K, H]: XLA's compiler for the CPU then turns all keys and values of every
layer around for each token, which took two fifths of a decoding step. With keys as values are, the products of two
queries with 256 keys took 2.7 times as long.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

HIDDEN = -2.3819763e38  # the logit of a key that is not seen, as Tunix's models have it


def empty_cache(config: object, rows: int, tokens: int, dtype: jnp.dtype) -> dict:
    """A cache of all layers: keys, values, and [B] how many places are taken, in all rows alike.

    Args:
      config: Tunix's, of any of its models.
      rows, tokens: B and S.
      dtype: the model's.
    """
    heads, size = (rows, config.num_kv_heads), config.head_dim
    return {
        f"layer_{index}": {
            "k": jnp.zeros((*heads, size, tokens), dtype),
            "v": jnp.zeros((*heads, tokens, size), dtype),
            "end_index": jnp.zeros((rows,), jnp.int32),
        }
        for index in range(config.num_layers)
    }


def spread(cache: dict, copies: int, tokens: int) -> dict:
    """The same cache with each row `copies` times, copies beside each other, and with room for `tokens` more."""

    room = {"k": ((0, 0), (0, 0), (0, 0), (0, tokens)), "v": ((0, 0), (0, 0), (0, tokens), (0, 0)), "end_index": (0, 0)}
    return {
        layer: {name: jnp.pad(jnp.repeat(leaf, copies, axis=0), room[name]) for name, leaf in leaves.items()}
        for layer, leaves in cache.items()
    }


class Packed(NamedTuple):
    """Some of the B · T new tokens of a cache's rows, beside each other without the padding between them.

    Attributes:
      places: [M] where in the B · T places, row after row, each token is; B · T where it is none.
      back: [B · T] where among the M each place is; M where its token is not there.
    """

    places: jax.Array
    back: jax.Array

    @classmethod
    def of(cls, places: jax.Array, rows: int, tokens: int) -> "Packed":
        """With these `places`, of `rows` × `tokens`."""
        back = jnp.full((rows * tokens,), places.shape[0], places.dtype)
        return cls(places, back.at[places].set(jnp.arange(places.shape[0], dtype=places.dtype), mode="drop"))

    def pack(self, values: jax.Array) -> jax.Array:
        """[1, M, …] of [B, T, …]; 0 where no token is."""
        return _taken(values.reshape(-1, *values.shape[2:]), self.places, self.back)[None]

    def unpack(self, values: jax.Array, rows: int) -> jax.Array:
        """[B, T, …] of [1, M, …], B of them `rows`; 0 where no token is."""
        return _taken(values[0], self.back, self.places).reshape(rows, -1, *values.shape[2:])


@jax.custom_vjp
def _taken(values: jax.Array, places: jax.Array, back: jax.Array) -> jax.Array:
    """`values[places]`, 0 where there is no such place; no value is taken twice.

    The gradient takes `back` likewise: of a plain gather XLA's compiler for the CPU adds it up row by row.
    """
    return values.at[places].get(mode="fill", fill_value=0)


def _taken_forward(values: jax.Array, places: jax.Array, back: jax.Array) -> tuple:
    return _taken(values, places, back), (places, back)


def _taken_backward(indices: tuple, gradient: jax.Array) -> tuple:
    places, back = indices
    return _taken(gradient, back, places), None, None


_taken.defvjp(_taken_forward, _taken_backward)


def with_packed(cache: dict, packed: Packed) -> dict:
    """The same cache of all layers, whose new tokens come packed."""
    return {layer: {**leaves, "packed": packed} for layer, leaves in cache.items()}


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
      query: [B, T, N, H], scaled; [1, M, N, H] where the cache has a `Packed` as its entry `packed`.
      key, value: [B, T, K, H] of the new tokens, or [1, M, K, H]; K divides N.
      cache: the layer's part of `empty_cache`.
      mask: [B, T, S] which places each query sees.
      softcap: Gemma 2's, of the logits.
      precision: what the softmax computes in; None is the query's.

    Returns:
      (what is read, of the query's shape; the cache with the new tokens in it).
    """
    if packed := cache.get("packed"):
        rows = cache["end_index"].shape[0]
        query, key, value = (packed.unpack(each, rows) for each in (query, key, value))
    rows, tokens, heads, size = query.shape
    groups = heads // key.shape[2]
    place = cache["end_index"][0]
    keys = jax.lax.dynamic_update_slice(cache["k"], key.transpose(0, 2, 3, 1), (0, 0, 0, place))
    values = jax.lax.dynamic_update_slice(cache["v"], value.swapaxes(1, 2), (0, 0, place, 0))
    query = (
        query.reshape(rows, tokens, -1, groups, size).transpose(0, 2, 1, 3, 4).reshape(rows, -1, tokens * groups, size)
    )
    logits = jnp.einsum("bkqh,bkhs->bkqs", query, keys)
    if softcap:
        logits = jnp.tanh(logits / softcap) * softcap
    logits = logits.reshape(rows, -1, tokens, groups, logits.shape[-1]).astype(precision or logits.dtype)
    weights = jax.nn.softmax(jnp.where(mask[:, None, :, None], logits, HIDDEN), axis=-1).astype(values.dtype)
    read = jnp.einsum("bkqs,bksh->bkqh", weights.reshape(rows, -1, tokens * groups, weights.shape[-1]), values)
    read = read.reshape(rows, -1, tokens, groups, size).transpose(0, 2, 1, 3, 4).reshape(rows, tokens, heads, size)
    if packed:
        read = packed.pack(read)
    return read, {**cache, "k": keys, "v": values, "end_index": cache["end_index"] + tokens}
