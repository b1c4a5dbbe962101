"""Parts of JAX that are private or that we patch, each with the reason and the version."""

import contextlib
from collections.abc import Iterator

import jax
from jax.sharding import Mesh


@contextlib.contextmanager
def devices_seen_as(mesh: Mesh) -> Iterator[None]:
    """While entered, Tunix sees the mesh's devices as the machine's own.

    Its `shard` looks at the first device, and does nothing where that is a CPU: activations would not be sharded as
    they are on the accelerator, and memory would come out wrong without a word.
    """
    real = jax.devices
    jax.devices = lambda *_: list(mesh.devices.flat)
    try:
        with mesh:
            yield
    finally:
        jax.devices = real
