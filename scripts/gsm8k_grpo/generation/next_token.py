"""How the next token is drawn from logits, without sorting a whole vocabulary."""

import jax
import jax.numpy as jnp

CANDIDATES = 256  # of top-p sampling without top-k: the likeliest tokens, which nearly always hold its mass


def sample_token(logits: jax.Array, keys: jax.Array, temperature: float, top_k: int | None, top_p: float) -> jax.Array:
    """A token of each row, from its own key: what Tunix's `sample_top_p` draws, in every row the same.

    Args:
      logits: [B, V].
      keys: [B] of JAX.
      temperature: above 0.
      top_k: draws among so many likeliest tokens; None is all.
      top_p: and of those among the likeliest that together have this probability.

    Returns:
      [B] int32.
    """
    logits = logits.astype(jnp.float32) / temperature
    if top_k:
        return _sample_among(keys, *jax.lax.top_k(logits, min(top_k, logits.shape[-1])), top_p)
    if top_p >= 1.0:
        return _categorical(keys, logits)
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    def among(count: int) -> jax.Array:
        return _sample_among(keys, *jax.lax.top_k(logits, count), top_p, normaliser)

    size = logits.shape[-1]
    if size <= CANDIDATES:
        return among(size)
    mass = jnp.exp(jax.lax.top_k(logits, CANDIDATES)[0] - normaliser).sum(axis=-1)
    return jax.lax.cond(jnp.all(mass > top_p), lambda: among(CANDIDATES), lambda: among(size))


def most_likely(logits: jax.Array) -> jax.Array:
    """[B] the index of the greatest of [B, V], the first of several; the last of all where there is a NaN.

    `argmax` of noise that XLA's compiler for the CPU puts into the same loop took ten times as long.
    """
    size = logits.shape[-1]
    logits = jax.lax.optimization_barrier(logits)  # computed twice, rounded otherwise, nothing might equal the greatest
    greatest = jnp.max(logits, axis=-1, keepdims=True)
    places = jnp.where(logits == greatest, jnp.arange(size, dtype=jnp.int32), size - 1)
    return jnp.min(places, axis=-1)


def _categorical(keys: jax.Array, logits: jax.Array) -> jax.Array:
    """[B] what `jax.random.categorical` draws from each row of [B, V] with its own key."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:], logits.dtype))(keys)
    return most_likely(logits + noise)


def _sample_among(
    keys: jax.Array, logits: jax.Array, tokens: jax.Array, top_p: float, normaliser: jax.Array | None = None
) -> jax.Array:
    """Of each row's `tokens`, [B, C], likeliest first, those before which there is no more than `top_p`; one of them.

    The noise of the token at a place is the same however many places there are (JAX's counter-based generator).
    """
    if top_p < 1.0:
        if normaliser is None:
            normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        probabilities = jnp.exp(logits - normaliser)
        logits = jnp.where(jnp.cumsum(probabilities, axis=-1) - probabilities > top_p, -jnp.inf, logits)
    place = _categorical(keys, logits)
    return jnp.take_along_axis(tokens, place[:, None], axis=-1)[:, 0]
