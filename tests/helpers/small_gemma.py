"""Small Gemma 2 models with random weights, and variants that prefer a token."""

import jax
from flax import nnx

from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.models import building
from small_models import ARCHITECTURE, QUESTIONS

PROMPTS = [build_prompt("", question) for question in QUESTIONS]
PAD, EOS, BOS, STOP = 0, 1, 2, 107
MAX_PROMPT = 64


def initialised(mesh, **sizes):
    """A model with random weights, placed on the mesh like a loaded one."""
    graph, state = nnx.split(building.initialise(building.tunix_config({**ARCHITECTURE, **sizes}), seed=0))
    return nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))


def leaning(model, token, weight):
    """A copy that prefers a token in any context: one feature is always on and has a weight in the token's logit."""
    copy = nnx.clone(model)
    embedding = copy.embedder.input_embedding
    embedding[...] = embedding[...].at[:, 0].set(0.5).at[token, 0].set(weight)
    return copy
