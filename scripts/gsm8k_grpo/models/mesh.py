"""The device mesh, and abstract arrays with shardings on it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.jax_setup import require_platform


def make_mesh(fsdp: int, tp: int) -> Mesh:
    """Makes a mesh of the first fsdp × tp devices; `fsdp` shards data and weights, `tp` heads and features.

    Raises:
      PipelineError: there are fewer devices, or they are not of the setting `platform`.
    """
    devices = jax.devices()
    require_platform(devices[0].platform)
    if len(devices) < fsdp * tp:
        raise PipelineError(
            f"mesh: fsdp {fsdp} × tp {tp} needs {fsdp * tp} devices, this machine has {len(devices)} "
            f"({devices[0].platform})"
        )
    return Mesh(np.array(devices[: fsdp * tp]).reshape(fsdp, tp), ("fsdp", "tp"))


def abstract_with_shardings(state: nnx.State, mesh: Mesh, dtype: jnp.dtype | None = None) -> nnx.State:
    """Replaces arrays by abstract ones with the shardings that their variables name, in `dtype` where it is given."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding),
        state,
        nnx.get_named_sharding(state, mesh),
    )


def is_abstract(state: nnx.State) -> bool:
    """Whether the arrays are shapes without values."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))


def with_sharding(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
