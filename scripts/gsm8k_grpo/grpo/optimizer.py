"""The optimizer and its learning-rate schedule."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx

GRADIENT_NORM = "gradient_norm"  # its name in the optimizer's state


def learning_rate_schedule(training_settings: Mapping) -> optax.Schedule:
    """Linear warm-up over `warmup_fraction` of the updates (μ in each step), then a cosine.

    It ends at `final_learning_rate_fraction` of the peak.
    """
    steps = training_settings["schedule_steps"] or training_settings["max_steps"]
    updates = steps * training_settings["num_iterations"]
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=training_settings["learning_rate"],
        warmup_steps=round(training_settings["warmup_fraction"] * updates),
        decay_steps=max(2, updates),
        end_value=training_settings["final_learning_rate_fraction"] * training_settings["learning_rate"],
    )


def make_optimizer(training_settings: Mapping) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm. The state keeps the norm before clipping, see `GRADIENT_NORM`.

    Adapters are updated stacked (`over_stacked_layers`). Whole weights are not: the stacks would double their memory.
    """
    largest_norm = training_settings["max_gradient_norm"]
    norm = optax.snapshot(GRADIENT_NORM, optax.global_norm)
    optimizer = optax.chain(
        # It begins with the norm of the weights. Jitted, that is one program, not one for each shape of weights.
        norm._replace(init=jax.jit(norm.init)),
        optax.clip_by_global_norm(largest_norm) if largest_norm else optax.identity(),
        optax.adamw(
            learning_rate_schedule(training_settings),
            b1=training_settings["adam_b1"],
            b2=training_settings["adam_b2"],
            weight_decay=training_settings["weight_decay"],
        ),
    )
    return over_stacked_layers(optimizer) if training_settings["lora"] else optimizer


def over_stacked_layers(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs a transformation on one array for each kind of array in a layer, stacked over the layers.

    Hundreds of adapters would be hundreds of programs to compile, and as many files in a checkpoint. What is computed
    for each number stays the same.
    """

    def init(params: object) -> object:
        return inner.init(_stacked(params))

    def update(gradients: object, state: object, params: object) -> tuple[object, object]:
        updates, state = inner.update(_stacked(gradients), state, _stacked(params))
        leaves, structure = jax.tree.flatten(gradients)
        unstacked = [None] * len(leaves)
        for name, places in _alike(gradients).items():
            for index, place in enumerate(places):
                unstacked[place] = updates[name][index] if len(places) > 1 else updates[name]
        return jax.tree.unflatten(structure, unstacked), state

    return optax.GradientTransformation(init, update)


def _alike(tree: object) -> dict[str, list[int]]:
    """Groups a tree's leaves by their paths without the layer's number: name → places among the leaves."""
    groups = {}
    for place, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_variable)):
        keys = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
        groups.setdefault("/".join("*" if key.isdecimal() else key for key in keys), []).append(place)
    return groups


def _stacked(tree: object) -> dict[str, object]:
    """Stacks leaves that are alike. Variables keep their metadata; the new axis is not sharded."""
    leaves = jax.tree.leaves(tree, is_leaf=_is_variable)
    return {name: _stack([leaves[place] for place in places]) for name, places in _alike(tree).items()}


def _stack(leaves: list) -> object:
    first = leaves[0]
    if len(leaves) == 1:
        return first
    if not _is_variable(first):
        return jnp.stack(leaves)
    names = {key: value and (None, *value) for key, value in first.get_metadata().items() if key.endswith("sharding")}
    return first.replace(jnp.stack([leaf.get_value() for leaf in leaves]), **names)


def _is_variable(leaf: object) -> bool:
    return isinstance(leaf, nnx.Variable)
