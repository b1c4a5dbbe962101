"""Parts of JAX that we replace for a while, each with the reason. All were seen in JAX 0.10.2."""

import contextlib
from collections.abc import Iterator

import jax
from jax.sharding import Mesh


@contextlib.contextmanager
def devices_seen_as(mesh: Mesh) -> Iterator[None]:
    """Makes `jax.devices()` return the mesh's devices while it is entered.

    The function `shard` of Tunix 0.1.7's models does nothing where the machine's first device is a CPU. Programs for an
    accelerator that is not there would silently not shard their activations, and need another amount of memory.
    """
    real = jax.devices
    jax.devices = lambda *_: list(mesh.devices.flat)
    try:
        with mesh:
            yield
    finally:
        jax.devices = real
