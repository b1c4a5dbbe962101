"""Packs the tokens of several rows into one row without padding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Packed(NamedTuple):
    """The M packed tokens of B rows of T places, and the way back.

    Attributes:
      places: [M] the place of each packed token among the B · T places, row after row; B · T where there is none.
      back: [B · T] the index of each place among the packed tokens; M where it is not among them.
    """

    places: jax.Array
    back: jax.Array

    @classmethod
    def of(cls, places: jax.Array, rows: int, tokens: int) -> "Packed":
        """Makes the way back for `places` of a batch of `rows` × `tokens`."""
        back = jnp.full((rows * tokens,), places.shape[0], places.dtype)
        return cls(places, back.at[places].set(jnp.arange(places.shape[0], dtype=places.dtype), mode="drop"))

    def pack(self, values: jax.Array) -> jax.Array:
        """Packs [B, T, …] into [1, M, …]; 0 where there is no token."""
        return gather_unique(values.reshape(-1, *values.shape[2:]), self.places, self.back)[None]

    def unpack(self, values: jax.Array, rows: int) -> jax.Array:
        """Unpacks [1, M, …] into [B, T, …] with B = `rows`; 0 where there is no token."""
        return gather_unique(values[0], self.back, self.places).reshape(rows, -1, *values.shape[2:])


@jax.custom_vjp
def gather_unique(values: jax.Array, places: jax.Array, back: jax.Array) -> jax.Array:
    """Gathers `values[places]`, 0 where there is no such place; `places` must not repeat a value.

    The gradient is a gather by `back`. The gradient of a plain gather is a scatter, which XLA's CPU compiler runs row
    by row.
    """
    return values.at[places].get(mode="fill", fill_value=0)


def _gather_forward(values: jax.Array, places: jax.Array, back: jax.Array) -> tuple:
    return gather_unique(values, places, back), (places, back)


def _gather_backward(indices: tuple, gradient: jax.Array) -> tuple:
    places, back = indices
    return gather_unique(gradient, back, places), None, None


gather_unique.defvjp(_gather_forward, _gather_backward)
