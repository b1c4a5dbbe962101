"""Gemma 2 and 3 whose sliding window is right behind padding, and where several tokens follow a cached prompt."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma import model as tunix_gemma2
from tunix.models.gemma3 import model as tunix_gemma3

from gsm8k_grpo.models import attention


def _cached_block(kind: type[nnx.Module]) -> Callable:
    """The method `block` of either family's attention: without a cache Tunix's, with one by `attention.over_cache`."""

    def block(
        self: nnx.Module, x: jax.Array, segment_pos: jax.Array, cache: dict | None, attn_mask: jax.Array
    ) -> tuple[dict | None, jax.Array]:
        """Of x, [B, T, D], at [B, T] positions, by a mask [B, T, S]: (the new cache or None, [B, T, D])."""
        if cache is None:
            return kind.block(self, x, segment_pos, cache, attn_mask)
        query, key, value = self.qkv_einsum(x) if self.use_qkv_einsum else (self.q_einsum(x), *self.kv_einsum(x))
        query, key, value = (tunix_gemma2.shard(each, self.shd_config.act_btnh) for each in (query, key, value))
        query, key = self.placed(query, key, segment_pos)
        softcap = getattr(self, "attn_logits_soft_cap", None)
        read, cache = attention.cached_attention(query, key, value, cache, attn_mask, softcap)
        return cache, tunix_gemma2.shard(self.attn_vec_einsum(read), self.shd_config.act_btd)

    return block


class Attention2(tunix_gemma2.Attention):
    """Gemma 2's."""

    block = _cached_block(tunix_gemma2.Attention)

    def placed(self, query: jax.Array, key: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Queries, scaled, and keys that know their positions."""
        query, key = (tunix_gemma2.apply_rope(each, positions, head_dim=self.head_dim) for each in (query, key))
        return query * self.head_dim**-0.5, key


class Attention3(tunix_gemma3.Attention):
    """Gemma 3's."""

    block = _cached_block(tunix_gemma3.Attention)

    def placed(self, query: jax.Array, key: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As Gemma 2's, after norms of their own."""
        query, key = (
            tunix_gemma3.apply_rope(
                each,
                positions,
                head_dim=self.head_dim,
                base_frequency=self.rope_base_frequency,
                scale_factor=self.rope_scale_factor,
            )
            for each in (self._query_norm(query), self._key_norm(key))
        )
        return query * self.query_pre_attn_scalar, key


class Windowed:
    """A forward pass with the window of local attention counted in places of the row.

    Tunix 0.1.7 compares a key's place in the row, padding included, with the query's position, padding not included
    (Gemma 2): behind p tokens of padding the window begins p tokens too early, and its newest p tokens are out of
    sight. Or it takes the first of several queries for the row's first token, whatever the cache holds (Gemma 3). Here
    keys and queries are both counted in places; a row's tokens have no holes between them, so that distances are right.
    """

    def _take_over_attention(self, kind: type, everywhere: object) -> None:
        """Notes which layers are local; all of them then attend to what the mask that they are given says."""
        self.local_layers = tuple(layer.attn.attn_type != everywhere for layer in self.layers)
        for layer in self.layers:
            layer.attn.__class__, layer.attn.attn_type = kind, everywhere

    def init_cache(self, batch_size: int, cache_size: int, dtype: jnp.dtype) -> dict:
        """As Tunix's sampler asks for it."""
        return attention.empty_cache(self.config, batch_size, cache_size, dtype)

    def __call__(
        self,
        last_tokens: jax.Array,
        positions: jax.Array,
        cache: dict | None,
        attention_mask: jax.Array,
        output_hidden_states: bool = False,
    ) -> tuple[jax.Array, dict | None]:
        """Tunix's forward pass.

        Args:
          last_tokens, positions: [B, T].
          cache: of all layers, with room for S tokens, or None (S is T).
          attention_mask: [B, T, S] which keys each query sees, the window not yet counted.
          output_hidden_states: keeps the last layer's, as Tunix does.

        Returns:
          (logits [B, T, V], the new cache or None).
        """
        window = local_mask(attention_mask, cache, self.config.sliding_window_size)
        new_cache = None if cache is None else {}
        x = self.embedder.encode(last_tokens)
        for index, (layer, local) in enumerate(zip(self.layers, self.local_layers, strict=True)):
            name = f"layer_{index}"
            layer_cache, x = layer(x, positions, cache[name] if cache else None, window if local else attention_mask)
            if cache is not None:
                new_cache[name] = layer_cache
        x = self.final_norm(x)
        if output_hidden_states:
            self.sow(nnx.Intermediate, "all_hidden_states", x)
        logits = self.embedder.decode(x)
        if cap := getattr(self, "final_logits_softcap", None):
            logits /= cap
            logits = jnp.tanh(logits) * cap
        return logits, new_cache


class Gemma2(Windowed, tunix_gemma2.Gemma):
    """Tunix's Gemma 2 with this forward pass."""

    def __init__(self, config: tunix_gemma2.ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self._take_over_attention(Attention2, tunix_gemma2.AttentionType.GLOBAL)


class Gemma3(Windowed, tunix_gemma3.Gemma3):
    """Tunix's Gemma 3, of text alone, with this forward pass."""

    def __init__(self, config: tunix_gemma3.ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self._take_over_attention(Attention3, tunix_gemma3.AttentionType.GLOBAL)


def local_mask(attention_mask: jax.Array, cache: dict | None, window_tokens: int) -> jax.Array:
    """The keys that a query of a local layer sees: the newest `window_tokens` up to itself.

    Args:
      attention_mask: [B, T, S], causal and without padding.
      cache: tells the place of the first query; without one it is 0.

    Returns:
      [B, T, S].
    """
    first = 0 if cache is None else cache["layer_0"]["end_index"][0]
    queries = first + jnp.arange(attention_mask.shape[-2])
    keys = jnp.arange(attention_mask.shape[-1])
    return attention_mask & (keys[None, :] > queries[:, None] - window_tokens)
