"""Prints the collectives of a program that gathers an array and then loops over it on each device."""

import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.preflight.collectives import count_collectives

mesh = make_mesh(4, 1)


def loop(x):
    gathered = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))
    return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y) @ y, gathered)


x = jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
print(json.dumps(count_collectives(jax.jit(loop).lower(x).compile().as_text())))
