"""Gemma 2 whose sliding window is right where prompts are padded on the left."""

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma import model as tunix_gemma


class Gemma2(tunix_gemma.Gemma):
    """Tunix's Gemma 2 with the window of local attention counted in places of the row.

    Tunix 0.1.7 compares a key's place in the row, padding included, with the query's position, padding not included:
    behind p tokens of padding the window begins p tokens too early, and its newest p tokens are out of sight. Here keys
    and queries are both counted in places; a row's tokens have no holes between them, so that distances are right.
    """

    def __init__(self, config: tunix_gemma.ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        for layer in self.layers:
            layer.attn.attn_type = tunix_gemma.AttentionType.GLOBAL  # its window is in the mask that it is given

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
        local = tunix_gemma.AttentionType.LOCAL_SLIDING
        new_cache = None if cache is None else {}
        x = self.embedder.encode(last_tokens)
        for index, (layer, kind) in enumerate(zip(self.layers, self.config.attention_types, strict=True)):
            name = f"layer_{index}"
            mask = window if kind == local else attention_mask
            layer_cache, x = layer(x, positions, cache[name] if cache else None, mask)
            if cache is not None:
                new_cache[name] = layer_cache
        x = self.final_norm(x)
        if output_hidden_states:
            self.sow(nnx.Intermediate, "all_hidden_states", x)
        logits = self.embedder.decode(x)
        if self.final_logits_softcap is not None:
            logits /= self.final_logits_softcap
            logits = jnp.tanh(logits) * self.final_logits_softcap
        return logits, new_cache


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
