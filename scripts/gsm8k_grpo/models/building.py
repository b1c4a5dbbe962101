"""Tunix models from an architecture: configuration, structure, random initial weights."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from gsm8k_grpo.models import families
from gsm8k_grpo.models.gemma import Gemma2, Gemma3
from gsm8k_grpo.models.qwen2 import Qwen2

# What computes each family, by its name: a Tunix model with `family`, `config_class`, `config_values` (from sizes) and
# `initial_deviation` (of its matrices; None is 1/√fan-in).
MODEL_CLASSES = {kind.family.name: kind for kind in (Gemma2, Gemma3, Qwen2)}


def tunix_config(architecture: Mapping | str) -> object:
    """Makes the Tunix configuration of an architecture, with float32 computation.

    Args:
      architecture: a preset's name, or the sizes of a small model (`model.architecture`).
    """
    sizes = families.architecture_sizes(architecture)
    kind = MODEL_CLASSES[sizes["family"]]
    shared = ("num_layers", "embed_dim", "hidden_dim", "num_heads", "head_dim", "num_kv_heads")
    return kind.config_class(**{key: sizes[key] for key in shared}, **kind.config_values(sizes))


def _model_class(model_config: object) -> type:
    return next(kind for kind in MODEL_CLASSES.values() if type(model_config) is kind.config_class)


def vocabulary_size(model_config: object) -> int:
    """The rows of the embedding, which Tunix's configurations call `vocab_size` or `num_embed`."""
    return getattr(model_config, "vocab_size", None) or model_config.num_embed


def build(model_config: object) -> nnx.Module:
    """Builds a model with Tunix's own initial weights."""
    return _model_class(model_config)(model_config, rngs=nnx.Rngs(0))


def initialise(model_config: object, seed: int) -> nnx.Module:
    """Builds a float32 model with random weights that can be trained from scratch.

    Tunix leaves the feed-forward kernels at zero, where they get no gradient, because its models load their weights. We
    draw every matrix from a normal distribution with standard deviation 1/√fan-in (LeCun), or the family's own.
    """
    model = build(model_config)
    state, own_deviation = nnx.state(model), _model_class(model_config).initial_deviation
    key = jax.random.key(seed)
    for index, (path, variable) in enumerate(nnx.to_flat_state(state)):
        name, shape = "/".join(map(str, path)), variable.shape
        if len(shape) >= 2:
            # The embedding is also the output projection: 0.02 makes the first logits small.
            deviation = 0.02 if "input_embedding" in name else own_deviation or _fan_in(name, shape) ** -0.5
            variable[...] = deviation * jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32)
        elif "post_" in name and name.endswith("scale"):
            # Gemma stores scale − 1. At 0.4 the normalised branches do not drown the token in the residual stream, and
            # a small model learns sooner.
            variable[...] = jnp.full(shape, -0.6, jnp.float32)
    nnx.update(model, state)
    return model


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    """Counts the inputs that each output of a matrix sums over."""
    if "attn_vec" in name:
        return shape[0] * shape[1]  # (N, H, D) contracts N·H
    return shape[-2]  # q (N, D, H) and kv (2, K, D, H); kernels (in, out)


def structure(model_config: object, dtype: jnp.dtype = jnp.float32) -> nnx.Module:
    """Makes a model without weights that computes in `dtype`; a family without that setting uses its weights' own."""
    if "dtype" in {field.name for field in dataclasses.fields(model_config)}:
        model_config = dataclasses.replace(model_config, dtype=dtype)
    return nnx.eval_shape(lambda: build(model_config))


def count_parameters(model: nnx.Module, kind: type = nnx.Param) -> int:
    """Counts the scalars in a model's variables of one kind."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, kind)))
