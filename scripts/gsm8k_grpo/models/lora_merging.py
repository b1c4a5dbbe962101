"""Merging LoRA adapters into weights, without Qwix, which makes them: its import and traces take seconds."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from gsm8k_grpo.models import building


def can_merge(lora: Mapping | None, dtype: jnp.dtype, on_cpu: bool) -> bool:
    """Whether merging changes the results by float32 rounding only, which is so on a CPU.

    By default a TPU multiplies float32 in bfloat16 and a GPU in TF32. There the sum of a weight and a small update
    rounds to the weight alone, while two separate products keep both.
    """
    return bool(lora) and not lora["base_weights"] and dtype == jnp.float32 and on_cpu


def merge_adapters(adapted: nnx.Module, lora: Mapping) -> nnx.Module:
    """Makes a model of the base's structure that has the merged weights of `merge_into`.

    Args:
      adapted: of `with_lora`, concrete or traced.
      lora: as in `with_lora`; `can_merge` must allow it.
    """
    graph, state = nnx.split(building.structure(adapted.config, adapted.embedder.input_embedding.dtype))
    weights, adapters = nnx.state(adapted, nnx.filterlib.Not(nnx.LoRAParam), nnx.LoRAParam)
    nnx.replace_by_pure_dict(state, nnx.to_pure_dict(weights))
    return merge_into(nnx.merge(graph, state), traverse_util.flatten_dict(nnx.to_pure_dict(adapters)), lora)


def merge_into(base: nnx.Module, adapters: Mapping[tuple, jax.Array], lora: Mapping) -> nnx.Module:
    """Makes a model that has W + alpha / rank · A·B (arXiv 2106.09685, eq. 3) for each W of `base` that has adapters.

    Args:
      base: concrete or traced.
      adapters: Qwix's arrays, by paths such as ("layers", 0, "attn", "q_einsum", "w_lora_a").
      lora: as in `with_lora`; `can_merge` must allow it.
    """
    graph, state = nnx.split(base)
    weights, left = traverse_util.flatten_dict(nnx.to_pure_dict(state)), dict(adapters)
    for path, module in nnx.iter_modules(base):
        for name in ("w", "kernel"):
            if (*path, f"{name}_lora_a") in left:
                a, b = (left.pop((*path, f"{name}_lora_{which}")) for which in "ab")
                # Qwix's A has the weight's input axes, then the rank; its B has the rank, then the other axes.
                inputs, axis = range(a.ndim - 1), _input_axis(module)
                update = jnp.moveaxis(jnp.tensordot(a, b, 1), inputs, range(axis, axis + len(inputs)))
                weights[*path, name] += lora["alpha"] / lora["rank"] * update
    if left:
        raise ValueError(f"these adapters belong to no weight of the model: {sorted(map(str, left))}")
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(weights))
    return nnx.merge(graph, state)


def _input_axis(module: nnx.Module) -> int:
    """Finds the first axis that a product with the module's weight sums over."""
    if not hasattr(module, "einsum_str"):
        return 0  # nnx.Linear
    weight, result = module.einsum_str.split(",")[1].split("->")
    return next(axis for axis, letter in enumerate(weight) if letter not in result)
