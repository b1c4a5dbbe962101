"""Tunix's Gemma 2 and 3 with a correct sliding window and our attention over a cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma import model as tunix_gemma2
from tunix.models.gemma3 import model as tunix_gemma3

from gsm8k_grpo.internals import tunix_internals
from gsm8k_grpo.models import attention, family_gemma
from gsm8k_grpo.models.family import Sizes
from gsm8k_grpo.models.layered import Layered


def _cached_block(kind: type[nnx.Module]) -> Callable:
    """Makes the method `block` of an attention: Tunix's without a cache, `cached_attention` with one."""

    def block(
        self: nnx.Module, x: jax.Array, segment_pos: jax.Array, cache: dict | None, attn_mask: jax.Array
    ) -> tuple[dict | None, jax.Array]:
        """Attends from x, [B, T, D], at positions [B, T], by a mask [B, T, S].

        Returns:
          (the new cache or None, [B, T, D]).
        """
        if cache is None:
            return kind.block(self, x, segment_pos, cache, attn_mask)
        query, key, value = self.qkv_einsum(x) if self.use_qkv_einsum else (self.q_einsum(x), *self.kv_einsum(x))
        query, key, value = (tunix_gemma2.shard(each, self.shd_config.act_btnh) for each in (query, key, value))
        query, key = self.rotated(query, key, segment_pos)
        softcap = getattr(self, "attn_logits_soft_cap", None)
        read, cache = attention.cached_attention(query, key, value, cache, attn_mask, softcap)
        return cache, tunix_gemma2.shard(self.attn_vec_einsum(read), self.shd_config.act_btd)

    return block


class Gemma2Attention(tunix_gemma2.Attention):
    """Gemma 2's attention."""

    block = _cached_block(tunix_gemma2.Attention)

    def rotated(self, query: jax.Array, key: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Applies rotary positions to queries and keys, and scales the queries."""
        query, key = (tunix_gemma2.apply_rope(each, positions, head_dim=self.head_dim) for each in (query, key))
        return query * self.head_dim**-0.5, key


class Gemma3Attention(tunix_gemma3.Attention):
    """Gemma 3's attention."""

    block = _cached_block(tunix_gemma3.Attention)

    def rotated(self, query: jax.Array, key: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Does the same as Gemma 2's after normalising queries and keys."""
        query, key = (
            tunix_gemma3.apply_rope(
                each,
                positions,
                head_dim=self.head_dim,
                base_frequency=self.rope_base_frequency,
                scale_factor=self.rope_scale_factor,
            )
            for each in tunix_internals.normalise_query_and_key(self, query, key)
        )
        return query * self.query_pre_attn_scalar, key


class Windowed(Layered):
    """Layers whose masks count the window of local attention in places of the row.

    Tunix 0.1.7's Gemma 2 compares a key's place in the row, padding included, with the query's position, padding
    excluded: behind p tokens of padding the window begins p tokens too early and hides the newest p tokens. Its Gemma 3
    takes the first of several queries for the row's first token, whatever the cache holds. We count keys and queries
    both in places. A row's tokens have no gaps between them, so the distances are right.
    """

    def _use_attention(self, kind: type, everywhere: object) -> None:
        """Replaces the attention of all layers and notes which are local: those get a narrower mask."""
        self.local_layers = tuple(layer.attn.attn_type != everywhere for layer in self.layers)
        for layer in self.layers:
            tunix_internals.replace_class(layer.attn, kind)
            layer.attn.attn_type = everywhere

    def init_cache(self, batch_size: int, cache_size: int, dtype: jnp.dtype) -> dict:
        """Makes an empty cache where Tunix's sampler asks for one."""
        return attention.empty_cache(self.config, batch_size, cache_size, dtype)

    @property
    def layer_period(self) -> int:
        """After how many layers local and global ones come in the same order again."""
        local = self.local_layers
        return next(
            period
            for period in range(1, len(local) + 1)
            if all(local[index] == local[index - period] for index in range(period, len(local)))
        )

    def layer_inputs(
        self, ids: jax.Array, places: jax.Array, cache: dict | None, mask: jax.Array
    ) -> tuple[jax.Array, list]:
        """Computes what the first layer gets, [B, T, D], and what each layer of the pattern gets besides.

        Arguments are those of `Layered.__call__`.
        """
        window = local_mask(mask, cache, self.config.sliding_window_size)
        pattern = self.local_layers[: self.layer_period]
        return self.embedder.encode(ids), [(places, window if local else mask) for local in pattern]

    @staticmethod
    def run_layer(
        layer: nnx.Module, x: jax.Array, cache: dict | None, places: jax.Array, mask: jax.Array
    ) -> tuple[dict | None, jax.Array]:
        """Runs one layer; returns (its new cache, [B, T, D])."""
        return layer(x, places, cache, mask)


class Gemma2(Windowed, tunix_gemma2.Gemma):
    """Tunix's Gemma 2 with this forward pass."""

    family, config_class, initial_deviation = family_gemma.GEMMA2, tunix_gemma2.ModelConfig, None

    def __init__(self, config: tunix_gemma2.ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self._use_attention(Gemma2Attention, tunix_gemma2.AttentionType.GLOBAL)

    @staticmethod
    def config_values(sizes: Sizes) -> dict:
        """What Tunix's configuration has beyond shared sizes; layers are local and global in turn."""
        local, everywhere = tunix_gemma2.AttentionType.LOCAL_SLIDING, tunix_gemma2.AttentionType.GLOBAL
        return {
            "num_embed": sizes["vocabulary_size"],
            "sliding_window_size": sizes["sliding_window_tokens"],
            "attention_types": ((local, everywhere) * sizes["num_layers"])[: sizes["num_layers"]],
            "final_logit_softcap": 30.0,
            "attn_logits_soft_cap": 50.0,
            "use_post_attn_norm": True,
            "use_post_ffw_norm": True,
        }


class Gemma3(Windowed, tunix_gemma3.Gemma3):
    """Tunix's Gemma 3, of text alone, with this forward pass."""

    family, config_class, initial_deviation = family_gemma.GEMMA3, tunix_gemma3.ModelConfig, None

    def __init__(self, config: tunix_gemma3.ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self._use_attention(Gemma3Attention, tunix_gemma3.AttentionType.GLOBAL)

    @staticmethod
    def config_values(sizes: Sizes) -> dict:
        """As Gemma 2's; Tunix's class itself makes five of six layers local."""
        return {
            "num_embed": sizes["vocabulary_size"],
            "sliding_window_size": sizes["sliding_window_tokens"],
            "local_base_frequency": 10_000,
            "global_base_frequency": 1_000_000,
            "param_dtype": jnp.float32,
        }


def local_mask(attention_mask: jax.Array, cache: dict | None, window_tokens: int) -> jax.Array:
    """Restricts a mask to the newest `window_tokens` keys up to each query.

    Args:
      attention_mask: [B, T, S], causal and without padding.
      cache: tells the distances; without a cache, place follows place.

    Returns:
      [B, T, S].
    """
    queries, keys = attention_mask.shape[-2:]
    if cache is None:
        return attention_mask & (jnp.arange(keys) > jnp.arange(queries)[:, None] - window_tokens)
    return attention_mask & (attention.token_ages(cache["layer_0"], queries) < window_tokens)
