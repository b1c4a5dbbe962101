"""Qwen2.5 whose attention takes quantised weights."""

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.qwen2 import model as tunix_qwen2


class Einsum(tunix_qwen2.Einsum):
    """Tunix's projection without its cast of the weight, which Qwix's quantised weights (QLoRA) do not have.

    Nothing is lost: `models.load` gives weights the precision that is computed in.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """The projection of x, [B, T, …], by the weight."""
        return jnp.einsum(self.einsum_str, jnp.astype(x, self.dtype), self.w.value)


class Qwen2(tunix_qwen2.Qwen2):
    """Tunix's Qwen2.5 with these projections."""

    def __init__(self, config: tunix_qwen2.ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        for layer in self.layers:
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(layer.attn, name).__class__ = Einsum
