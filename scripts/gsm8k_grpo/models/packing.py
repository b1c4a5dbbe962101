"""Tokens packed beside each other without the padding between them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Packed(NamedTuple):
    """Some of the B · T new tokens of a cache's rows, beside each other without the padding between them.

    Attributes:
      places: [M] where in the B · T places, row after row, each token is; B · T where it is none.
      back: [B · T] where among the M each place is; M where its token is not there.
    """

    places: jax.Array
    back: jax.Array

    @classmethod
    def of(cls, places: jax.Array, rows: int, tokens: int) -> "Packed":
        """With these `places`, of `rows` × `tokens`."""
        back = jnp.full((rows * tokens,), places.shape[0], places.dtype)
        return cls(places, back.at[places].set(jnp.arange(places.shape[0], dtype=places.dtype), mode="drop"))

    def pack(self, values: jax.Array) -> jax.Array:
        """[1, M, …] of [B, T, …]; 0 where no token is."""
        return gather_unique(values.reshape(-1, *values.shape[2:]), self.places, self.back)[None]

    def unpack(self, values: jax.Array, rows: int) -> jax.Array:
        """[B, T, …] of [1, M, …], B of them `rows`; 0 where no token is."""
        return gather_unique(values[0], self.back, self.places).reshape(rows, -1, *values.shape[2:])


@jax.custom_vjp
def gather_unique(values: jax.Array, places: jax.Array, back: jax.Array) -> jax.Array:
    """`values[places]`, 0 where there is no such place; no value is taken twice.

    The gradient takes `back` likewise: of a plain gather XLA's compiler for the CPU adds it up row by row.
    """
    return values.at[places].get(mode="fill", fill_value=0)


def _gather_forward(values: jax.Array, places: jax.Array, back: jax.Array) -> tuple:
    return gather_unique(values, places, back), (places, back)


def _gather_backward(indices: tuple, gradient: jax.Array) -> tuple:
    places, back = indices
    return gather_unique(gradient, back, places), None, None


gather_unique.defvjp(_gather_forward, _gather_backward)
