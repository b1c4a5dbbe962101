"""The optimizer on stacked adapters, and the schedule over steps without an update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsm8k_grpo.grpo.optimizer import over_stacked_layers

LAYER = {"attn": {"a": jnp.ones((3, 2)), "b": jnp.ones(4)}, "mlp": {"a": jnp.ones((2, 2))}}


def test_stacked_layers_get_the_updates_that_they_get_alone():
    """Also what is no layer, and a layer that lacks an array."""
    rng = np.random.default_rng(0)
    shapes = {"layers": {0: LAYER, 1: LAYER, 10: {"mlp": LAYER["mlp"]}}, "norm": {"a": jnp.ones(5)}}
    plain = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=0.01))
    stacked = over_stacked_layers(plain)
    parameters = both = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    state, stacked_state = plain.init(parameters), stacked.init(both)
    assert len(jax.tree.leaves(stacked_state)) == 2 * 4 + 1  # two moments of four kinds of arrays, and a count
    for _ in range(3):
        gradient = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
        updates, state = plain.update(gradient, state, parameters)
        same, stacked_state = stacked.update(gradient, stacked_state, both)
        parameters, both = optax.apply_updates(parameters, updates), optax.apply_updates(both, same)
    assert jax.tree.structure(parameters) == jax.tree.structure(both)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), parameters, both)
