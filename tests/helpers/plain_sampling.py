"""Completions by whole passes, one token and one row at a time, and the shapes that a sampler's programs are given."""

import jax
import numpy as np
from flax import nnx

from small_models import NUMBER_STOPS


@nnx.jit(static_argnames="temperature")
def plain_token(model, ids, last, key, temperature):
    """Draws what follows place `last` from a whole pass over [1, T]: no cache, no padding, no other rows."""
    places = jax.numpy.arange(ids.shape[1])[None]
    logits = model(ids, places, None, jax.numpy.tri(ids.shape[1], dtype=bool)[None])[0][0, last].at[0].set(-np.inf)
    return jax.random.categorical(key, logits / temperature) if temperature else logits.argmax()


def plain_tokens(model, prompt, key, limit, temperature, stops=NUMBER_STOPS):
    """Draws the tokens of one row."""
    ids, length = np.zeros((1, 32), np.int32), 1 + len(prompt.split())
    ids[0, :length] = [2, *map(int, prompt.split())]
    found = []
    while len(found) < limit and not (found and found[-1] in stops):
        place = length + len(found)
        found.append(int(plain_token(model, ids, place - 1, jax.random.fold_in(key, len(found)), temperature)))
        ids[0, place] = found[-1]
    return found


def with_noted_shapes(program, shapes):
    """Makes a program note the prompts' shape, or the numbers of rows and of places in the cache."""

    def call(weights, given, *arguments, **options):
        prompts = isinstance(given, np.ndarray)
        shapes.append(given.shape if prompts else given.cache["layer_0"]["v"].shape[::2])
        return program(weights, given, *arguments, **options)

    return call
