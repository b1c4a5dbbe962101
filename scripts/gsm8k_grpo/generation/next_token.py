"""Draws the next token from logits without sorting a whole vocabulary."""

import jax
import jax.numpy as jnp

LARGE_VOCABULARY = 16_384  # from here on, noise for each token would take a quarter of a CPU's decoding
BLOCK = 512  # tokens that inversion first adds up
CANDIDATES = 256  # top-p sampling without top-k first looks at so many likeliest tokens, which nearly always suffice


def limits_tokens(top_k: int | None, top_p: float) -> bool:
    """Whether sampling leaves tokens out."""
    return bool(top_k) or top_p < 1.0


def sample_token(
    logits: jax.Array, keys: jax.Array, temperature: float, top_k: int | None, top_p: float
) -> tuple[jax.Array, jax.Array | None]:
    """Draws a token for each row with the row's own key; Tunix's `sample_top_p` draws the same for the same key.

    From a large vocabulary of which nothing is left out, it draws by inversion. Then the tokens are not Tunix's.

    Args:
      logits: [B, V].
      keys: [B] JAX keys.
      temperature: above 0.
      top_k: the number of likeliest tokens to draw from; None is all.
      top_p: the probability that the likeliest of them to draw from have together.

    Returns:
      ([B] int32 tokens, [B] float32 probability of the tokens that top_k and top_p leave out). The probability is of
      the softmax over all logits at this temperature; None where nothing is left out.
    """
    logits = logits.astype(jnp.float32) / temperature
    if not limits_tokens(top_k, top_p):
        draw = _by_inversion if logits.shape[-1] >= LARGE_VOCABULARY else _categorical
        return draw(keys, logits), None
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    if top_k:
        likeliest, tokens = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))
        among_them = jax.nn.logsumexp(likeliest, axis=-1, keepdims=True)
        return _sample_among(keys, likeliest, tokens, top_p, among_them, normaliser)

    def among(count: int) -> tuple[jax.Array, jax.Array]:
        return _sample_among(keys, *jax.lax.top_k(logits, count), top_p, normaliser, normaliser)

    size = logits.shape[-1]
    if size <= CANDIDATES:
        return among(size)
    mass = jnp.exp(jax.lax.top_k(logits, CANDIDATES)[0] - normaliser).sum(axis=-1)
    return jax.lax.cond(jnp.all(mass > top_p), lambda: among(CANDIDATES), lambda: among(size))


def most_likely(logits: jax.Array) -> jax.Array:
    """Finds the index of the greatest of [B, V] in each row: the first of several, or V - 1 where there is a NaN.

    XLA's CPU compiler fuses `argmax` with the computation of noise into one slow loop; this form avoids that.

    Returns:
      [B] int32.
    """
    size = logits.shape[-1]
    logits = jax.lax.optimization_barrier(logits)  # computed twice they could round differently and equal no maximum
    greatest = jnp.max(logits, axis=-1, keepdims=True)
    places = jnp.where(logits == greatest, jnp.arange(size, dtype=jnp.int32), size - 1)
    return jnp.min(places, axis=-1)


def _categorical(keys: jax.Array, logits: jax.Array) -> jax.Array:
    """Draws from each row of [B, V] with its own key what `jax.random.categorical` draws; returns [B]."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:], logits.dtype))(keys)
    return most_likely(logits + noise)


def _by_inversion(keys: jax.Array, logits: jax.Array) -> jax.Array:
    """Draws from each row of [B, V] with two random numbers: one chooses a block of tokens, one a token in it.

    Devroye, Non-Uniform Random Variate Generation (1986), III.2.1. Returns [B], V - 1 where there is a NaN.
    """
    rows, size = logits.shape
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.pad(weights, ((0, 0), (0, -size % BLOCK))).reshape(rows, -1, BLOCK)
    numbers = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    block = _first_above(jnp.sum(weights, axis=-1), numbers[:, 0])
    place = _first_above(jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0], numbers[:, 1])
    return jnp.minimum(block * BLOCK + place, size - 1)


def _first_above(weights: jax.Array, numbers: jax.Array) -> jax.Array:
    """Finds in each row of [B, C] the first place whose sum so far is above its number's share, [B] in [0, 1), of all.

    Such a place has a weight above 0. It is C - 1 where there is a NaN.
    """
    sums = jnp.cumsum(weights, axis=-1)
    all_weights = sums[:, -1:]
    # Rounding can bring a share up to the whole.
    shares = jnp.minimum(numbers[:, None] * all_weights, jnp.nextafter(all_weights, 0.0))
    return jnp.minimum(jnp.sum(~(sums > shares), axis=-1), weights.shape[-1] - 1)


def _sample_among(
    keys: jax.Array,
    logits: jax.Array,
    tokens: jax.Array,
    top_p: float,
    normaliser: jax.Array,
    normaliser_of_all: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Draws one of each row's `tokens`, [B, C], likeliest first, whose predecessors have at most `top_p` together.

    The noise at a place does not depend on the number of places, because JAX's generator is counter-based.

    Args:
      normaliser: [B, 1] logsumexp that makes the probabilities for `top_p`.
      normaliser_of_all: [B, 1] logsumexp over the vocabulary.

    Returns:
      as `sample_token`.
    """
    if top_p < 1.0:
        probabilities = jnp.exp(logits - normaliser)
        logits = jnp.where(jnp.cumsum(probabilities, axis=-1) - probabilities > top_p, -jnp.inf, logits)
    place = _categorical(keys, logits)
    kept = jnp.sum(jnp.exp(logits - normaliser_of_all), axis=-1)
    # Rounding can bring the sum above 1.
    return jnp.take_along_axis(tokens, place[:, None], axis=-1)[:, 0], jnp.maximum(1.0 - kept, 0.0)
