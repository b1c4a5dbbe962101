"""Logits of our models and of Hugging Face's on the same left-padded rows, for tests of parity (they need PyTorch)."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from tunix.rl import common

from gsm8k_grpo.models import building
from gsm8k_grpo.models.families import family_of

PAD, STOP = 0, 3
STOPS = (STOP, 9)
LENGTHS = (23, 17, 9, 4)  # of rows; all but one are longer than the windows


class Ids:
    """A tokenizer whose text is its ids."""

    def __init__(self, architecture):
        self._bos = 2 if family_of(architecture).template.bos else None

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))

    def bos_id(self):
        return self._bos

    def eos_id(self):
        return STOP

    def pad_id(self):
        return PAD


def with_weights(weights, architecture, dtype=jnp.float32):
    """Our model with these weights (nested dicts)."""
    graph, state = nnx.split(building.structure(building.tunix_config(architecture), jnp.dtype(dtype)))
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda array: jnp.asarray(array, dtype), weights))
    return nnx.merge(graph, state)


def their_logits(model, tokens):
    """Logits [B, T, V] of a `transformers` model; tokens [B, T] are padded on the left."""
    mask = torch.tensor(tokens != PAD)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found = model(input_ids=torch.tensor(tokens), attention_mask=mask.long(), position_ids=positions)
    return found.logits.float().numpy()


@nnx.jit
def forward(model, tokens, positions, cache, mask):
    return model(tokens, positions, cache, mask)


def our_logits(model, tokens):
    """Logits [B, T, V] of our model, as in training: without a cache."""
    valid = jnp.asarray(tokens) != PAD
    positions, mask = common.build_positions_from_mask(valid), common.make_causal_attn_mask(valid)
    return np.asarray(forward(model, jnp.asarray(tokens), positions, None, mask)[0])
