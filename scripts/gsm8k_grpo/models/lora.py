"""LoRA adapters: creating them, and what training changes. `lora_merging` merges them into the weights."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from jax.sharding import Mesh

from gsm8k_grpo.internals import qwix_internals
from gsm8k_grpo.models.mesh import abstract_with_shardings, is_abstract, with_sharding


class LoraProvider(qwix_internals.LoraProvider):
    """Qwix's LoRA with float32 adapters beside a base of any precision, and with dropout in the loss only.

    Qwix gives adapters the base's precision (in bfloat16, steps of 3e-6 vanish) and applies dropout in every forward
    pass, including sampling. Here a module needs `qwix_rngs` for dropout, and activations keep their precision.
    """

    def rule_in(self, module: nnx.Module, rule: object) -> object:
        """Takes dropout out of the rule of a module that has no random numbers for it."""
        if getattr(rule, "dropout", 0) and not isinstance(module.qwix_rngs, nnx.Rngs):
            return dataclasses.replace(rule, dropout=0.0)
        return rule

    def dot_general(self, lhs: jax.Array, *arguments: object, **options: object) -> jax.Array:
        """Adds the products with the base weight and with the adapter, in the precision of `lhs`."""
        return _in_precision_of(lhs, super().dot_general(lhs, *arguments, **options))

    def einsum(self, equation: str, *operands: jax.Array, **options: object) -> jax.Array:
        """Does for einsum what `dot_general` does."""
        return _in_precision_of(operands[0], super().einsum(equation, *operands, **options))


def _in_precision_of(lhs: jax.Array, product: jax.Array) -> jax.Array:
    """Casts a product to its left side's type, unless that is an integer (Qwen multiplies positions by frequencies)."""
    return product.astype(lhs.dtype) if jnp.issubdtype(lhs.dtype, jnp.floating) else product


def with_lora(model: nnx.Module, lora: Mapping, seed: int, mesh: Mesh) -> nnx.Module:
    """Adds fresh LoRA adapters (arXiv 2106.09685): A is drawn from the seed and B is zero, so outputs stay the same.

    Args:
      model: a loaded base model, whose weights are shared except those that are quantised; or one of
        `storage.abstract_model`, whose adapters are abstract too.
      lora: `rank`, `alpha`, `dropout`, `target_modules` (names of Tunix modules) and `base_weights`: null, or the type
        to quantise the weights of these modules to (QLoRA, arXiv 2305.14314).
      seed: of the draw of A.
      mesh: where the adapters are placed.
    """
    config, four_bits = model.config, lora["base_weights"] == "nf4"
    provider = LoraProvider(
        module_path="|".join(f".*{name}" for name in lora["target_modules"]),
        rank=lora["rank"],
        alpha=float(lora["alpha"]),
        dropout=float(lora["dropout"]),
        weight_qtype=lora["base_weights"],
        # One scale per block of 64 weights as in QLoRA (fewer where 64 does not divide a width), or per channel (int8).
        tile_size=math.gcd(64, config.head_dim, config.embed_dim, config.hidden_dim) if four_bits else None,
    )
    base_graph, base_state = nnx.split(model)
    graph = None

    @jax.jit  # eager code is slower and cannot split arrays that lie on several hosts
    def adapt(state: nnx.State) -> tuple[nnx.State, nnx.State | None]:
        nonlocal graph
        module = nnx.merge(base_graph, state)
        adapted = qwix.apply_lora_to_model(module, provider, **module.get_model_input(), rngs=nnx.Rngs(seed))
        graph, adapters, base = nnx.split(adapted, nnx.LoRAParam, ...)
        adapters = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), adapters)
        return adapters, base if lora["base_weights"] else None

    with mesh:
        if is_abstract(base_state):
            adapters, quantised = jax.eval_shape(adapt, base_state)
            adapters = abstract_with_shardings(adapters, mesh)
            if quantised is not None:
                places = adapt.lower(base_state).compile().output_shardings[1]
                quantised = jax.tree.map(with_sharding, quantised, places)
        else:
            adapters, quantised = adapt(base_state)
            adapters = jax.device_put(adapters, nnx.get_named_sharding(adapters, mesh))
    return nnx.merge(graph, adapters, base_state if quantised is None else quantised)


def trained_variables(lora: Mapping | None) -> type:
    """The kind of variables that training changes: adapters, or all weights without LoRA."""
    return nnx.LoRAParam if lora else nnx.Param


def make_policy(model: nnx.Module, lora: Mapping | None, seed: int, mesh: Mesh) -> nnx.Module:
    """Makes the policy: the model with LoRA, or without LoRA a second model on the same weights."""
    return with_lora(model, lora, seed, mesh) if lora else nnx.merge(*nnx.split(model))


def with_zero_adapters(adapted: nnx.Module) -> nnx.Module:
    """Makes a second model on the same, possibly quantised, base weights whose adapters are zero."""
    graph, adapters, base = nnx.split(adapted, nnx.LoRAParam, ...)
    return nnx.merge(graph, adapters if is_abstract(adapters) else jax.tree.map(jnp.zeros_like, adapters), base)
