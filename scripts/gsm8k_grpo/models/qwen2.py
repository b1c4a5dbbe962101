"""Tunix's Qwen2.5 with projections that accept quantised weights and our attention over a cache."""

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.qwen2 import model as tunix_qwen2

from gsm8k_grpo.internals import tunix_internals
from gsm8k_grpo.models import attention, family_qwen2
from gsm8k_grpo.models.family import Sizes
from gsm8k_grpo.models.layered import Layered


class Einsum(tunix_qwen2.Einsum):
    """Tunix's projection without its cast of the weight, which Qwix's quantised weights (QLoRA) do not support.

    Nothing is lost: `storage.load` already gives weights the precision of the computation.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Projects x, [B, T, …], by the weight."""
        return jnp.einsum(self.einsum_str, jnp.astype(x, self.dtype), self.w.value)


class Attention(tunix_qwen2.Attention):
    """Tunix's attention without a cache, `cached_attention` with one."""

    def block(
        self,
        x: jax.Array,
        cache: dict | None,
        attn_mask: jax.Array,
        sin: jax.Array,
        cos: jax.Array,
        segment_ids: None = None,
    ) -> tuple[dict | None, jax.Array]:
        """Computes the attention part of a layer.

        Args:
          x: [B, T, D].
          cache: the layer's, of `attention.empty_cache`, or None.
          attn_mask: [B, T, S].
          sin, cos: of the positions.

        Returns:
          (the new cache or None, [B, T, D]).
        """
        if cache is None:
            return super().block(x, cache, attn_mask, sin, cos, segment_ids)

        def projected(projection: nnx.Module, bias: nnx.Param) -> jax.Array:
            heads = projection(x)
            heads = heads + bias.value.astype(self.config.dtype).reshape(heads.shape[2:])
            return tunix_qwen2.shard(heads, self.shd_config.act_btnh)

        query, key = (
            tunix_qwen2.apply_rotary_embedding(projected(*each), sin, cos)
            for each in ((self.q_proj, self.q_bias), (self.k_proj, self.k_bias))
        )
        value = projected(self.v_proj, self.v_bias)
        read, cache = attention.cached_attention(
            query * self.scale, key, value, cache, attn_mask, precision=jnp.float32
        )
        return cache, tunix_qwen2.shard(self.o_proj(read), self.shd_config.act_btd)


class Qwen2(Layered, tunix_qwen2.Qwen2):
    """Tunix's Qwen2.5 with these projections and this attention."""

    family, config_class = family_qwen2.QWEN2, tunix_qwen2.ModelConfig
    # Its published `initializer_range`. A miniature learns less from 1/√fan-in: Qwen2.5 neither scales its embedding up
    # nor normalises after its branches, as Gemma does.
    initial_deviation = 0.02

    def __init__(self, config: tunix_qwen2.ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        for layer in self.layers:
            tunix_internals.replace_class(layer.attn, Attention)
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                tunix_internals.replace_class(getattr(layer.attn, name), Einsum)

    layer_period = 1

    def layer_inputs(
        self, ids: jax.Array, places: jax.Array, cache: dict | None, mask: jax.Array
    ) -> tuple[jax.Array, list]:
        """Computes what the first layer gets, [B, T, D], and what each layer of the pattern gets besides.

        Arguments are those of `Layered.__call__`.
        """
        x = self.embedder.encode(ids)
        angles = tunix_internals.qwen2_rotary_angles(places, self.config)
        return x, [(mask, *(each.astype(x.dtype) for each in angles))]

    @staticmethod
    def run_layer(
        layer: nnx.Module, x: jax.Array, cache: dict | None, mask: jax.Array, sin: jax.Array, cos: jax.Array
    ) -> tuple[dict | None, jax.Array]:
        """Runs one layer; returns (its new cache, [B, T, D])."""
        return layer(x, cache, mask, sin, cos)

    @staticmethod
    def config_values(sizes: Sizes) -> dict:
        """What Tunix's configuration has beyond the sizes that all families share."""
        return {
            "vocab_size": sizes["vocabulary_size"],
            "norm_eps": 1e-6,
            "rope_theta": 1_000_000,
            "use_tied_embedding": True,
        }

    def init_cache(self, batch_size: int, cache_size: int, dtype: jnp.dtype) -> dict:
        """Makes an empty cache where Tunix's sampler asks for one."""
        return attention.empty_cache(self.config, batch_size, cache_size, dtype)
