"""LoRA adapters: creating them, merging them into the weights, and what training changes."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import qwix
from flax import nnx, traverse_util
from jax.sharding import Mesh
from qwix._src.utils import flax_util

from gsm8k_grpo.models import building
from gsm8k_grpo.models.mesh import abstract_with_shardings, is_abstract, with_sharding


class LoraProvider(qwix.LoraProvider):
    """Qwix's LoRA for training: adapters in float32 beside a base of any precision, and dropout only in the loss.

    Qwix makes the adapters in the base's precision (steps of 3e-6 vanish in bfloat16) and drops out in every forward
    pass, sampling included. Here dropout needs a module that has `qwix_rngs`, and activations keep their precision.
    """

    def _get_current_rule_and_op_id(self, *arguments: object, **options: object) -> tuple:
        rule, operation = super()._get_current_rule_and_op_id(*arguments, **options)
        if getattr(rule, "dropout", 0) and not isinstance(flax_util.get_current_module().qwix_rngs, nnx.Rngs):
            rule = dataclasses.replace(rule, dropout=0.0)
        return rule, operation

    def dot_general(self, lhs: jax.Array, *arguments: object, **options: object) -> jax.Array:
        """The product with the base weight plus the adapter's, in the precision of `lhs`."""
        return _in_precision_of(lhs, super().dot_general(lhs, *arguments, **options))

    def einsum(self, equation: str, *operands: jax.Array, **options: object) -> jax.Array:
        """As `dot_general`."""
        return _in_precision_of(operands[0], super().einsum(equation, *operands, **options))


def _in_precision_of(lhs: jax.Array, product: jax.Array) -> jax.Array:
    """A product as its left side's type, unless that holds integers (Qwen multiplies positions with frequencies)."""
    return product.astype(lhs.dtype) if jnp.issubdtype(lhs.dtype, jnp.floating) else product


def with_lora(model: nnx.Module, lora: Mapping, seed: int, mesh: Mesh) -> nnx.Module:
    """The model with fresh LoRA adapters (arXiv 2106.09685): A drawn from the seed, B zero: it computes the same yet.

    Args:
      model: a loaded base model; its weights are shared, not copied, but for those that are quantised. Or one of
        `abstract`: then the adapters are abstract too.
      lora: `rank`, `alpha`, `dropout`, `target_modules` (names of Tunix modules) and `base_weights`: null, or the type
        that the weights of these modules are quantised to (QLoRA, arXiv 2305.14314).
      seed: of the draw of A.
      mesh: where the adapters are placed.
    """
    sizes, four_bits = model.config, lora["base_weights"] == "nf4"
    provider = LoraProvider(
        module_path="|".join(f".*{name}" for name in lora["target_modules"]),
        rank=lora["rank"],
        alpha=float(lora["alpha"]),
        dropout=float(lora["dropout"]),
        weight_qtype=lora["base_weights"],
        # Weights that share one scale: QLoRA's blocks of 64 (less where widths are no multiple), int8 whole channels.
        tile_size=math.gcd(64, sizes.head_dim, sizes.embed_dim, sizes.hidden_dim) if four_bits else None,
    )
    base_graph, base_state = nnx.split(model)
    graph = None

    @jax.jit  # not eagerly: that takes longer, and cannot take apart arrays that lie on several hosts
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


def can_merge(lora: Mapping | None, dtype: jnp.dtype, on_cpu: bool) -> bool:
    """Whether `merged` changes nothing but the rounding of float32, where that is what a product computes in: on a CPU.

    A TPU multiplies float32 in bfloat16 unless told otherwise, a GPU in TF32: there the sum of a weight and a small
    update is rounded to the weight alone, while apart, both count.
    """
    return bool(lora) and not lora["base_weights"] and dtype == jnp.float32 and on_cpu


def merge_adapters(adapted: nnx.Module, lora: Mapping) -> nnx.Module:
    """A model of the base's own structure with W + alpha / rank · A·B (arXiv 2106.09685, eq. 3) for each adapted W.

    Args:
      adapted: of `with_lora`, concrete or traced.
      lora: as `with_lora` got it, where `merges`.
    """
    graph, state = nnx.split(building.structure(adapted.config, adapted.embedder.input_embedding.dtype))
    weights, adapters = (
        traverse_util.flatten_dict(nnx.to_pure_dict(each))
        for each in nnx.state(adapted, nnx.filterlib.Not(nnx.LoRAParam), nnx.LoRAParam)
    )
    for path, module in nnx.iter_modules(adapted):
        for name in ("w", "kernel"):
            if (*path, f"{name}_lora_a") in adapters:
                a, b = (adapters.pop((*path, f"{name}_lora_{which}")) for which in "ab")
                # Qwix's A has the weight's axes of inputs, then the rank; its B has the rank, then the others.
                inputs, axis = range(a.ndim - 1), _input_axis(module)
                update = jnp.moveaxis(jnp.tensordot(a, b, 1), inputs, range(axis, axis + len(inputs)))
                weights[*path, name] += lora["alpha"] / lora["rank"] * update
    if adapters:
        raise ValueError(f"adapters of no weight that is known: {sorted(map(str, adapters))}")
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(weights))
    return nnx.merge(graph, state)


def _input_axis(module: nnx.Module) -> int:
    """The first axis that a product with the module's weight sums over."""
    if not hasattr(module, "einsum_str"):
        return 0  # of nnx.Linear
    weight, result = module.einsum_str.split(",")[1].split("->")
    return next(axis for axis, letter in enumerate(weight) if letter not in result)


def trained_variables(lora: Mapping | None) -> type:
    """The kind of variables that training changes: adapters, or all weights where there are none."""
    return nnx.LoRAParam if lora else nnx.Param


def make_policy(model: nnx.Module, lora: Mapping | None, seed: int, mesh: Mesh) -> nnx.Module:
    """What training starts from: `with_lora`, or without LoRA a second model on the same weights, all to be trained."""
    return with_lora(model, lora, seed, mesh) if lora else nnx.merge(*nnx.split(model))


def with_zero_adapters(adapted: nnx.Module) -> nnx.Module:
    """A second model on the same, possibly quantised, base weights: its adapters are zero."""
    graph, adapters, base = nnx.split(adapted, nnx.LoRAParam, ...)
    return nnx.merge(graph, adapters if is_abstract(adapters) else jax.tree.map(jnp.zeros_like, adapters), base)
