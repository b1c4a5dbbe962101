"""Sharing prompts within groups and computing logits in parts keep numbers and gradients of Tunix's plain pass."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.rl import common

from gsm8k_grpo.generation import padding
from gsm8k_grpo.models import building, log_probs
from gsm8k_grpo.models.lora import with_lora
from gsm8k_grpo.models.mesh import make_mesh
from small_models import ONE_FAMILY_QUICK

PAD, TEMPERATURE, VOCABULARY = 0, 0.9, 67  # a size that nothing else has
GENERATIONS, PROMPT, COMPLETION = 3, 12, 10
SIZES = {"embed_dim": 32, "hidden_dim": 64, "num_heads": 4, "head_dim": 16, "num_kv_heads": 2}
LORA = {
    "rank": 4,
    "alpha": 4,
    "dropout": 0,
    "target_modules": ["q_einsum", "kv_einsum", "q_proj", "k_proj", "gate_proj"],
    "base_weights": None,
}


@pytest.fixture(scope="module", params=ONE_FAMILY_QUICK)
def policy(request):
    """A policy with adapters that are not zero and with local layers that see fewer tokens than a prompt has."""
    family = request.param
    window = {} if family == "qwen2" else {"sliding_window_tokens": 8}
    sizes = SIZES | window | {"num_layers": 6 if family == "gemma3" else 2, "vocabulary_size": VOCABULARY}
    model = building.initialise(building.tunix_config({"family": family, **sizes}), seed=0)
    model = with_lora(model, LORA, 0, make_mesh(1, 1))
    rng = np.random.default_rng(1)
    adapters = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32), nnx.state(model, nnx.LoRAParam)
    )
    nnx.update(model, adapters)
    return model


@pytest.fixture(scope="module")
def tokens():
    """Gives prompts [2, P] left-padded, completions [6, T] right-padded, and weights [6, T] that are 0 at padding."""
    rng = np.random.default_rng(2)
    prompts = rng.integers(3, VOCABULARY, (2, PROMPT)).astype(np.int32)
    prompts[0, :5], prompts[1, :1] = PAD, PAD
    completions = rng.integers(3, VOCABULARY, (2 * GENERATIONS, COMPLETION)).astype(np.int32)
    completions[1, 6:], completions[4, 1:] = PAD, PAD
    return prompts, completions, rng.standard_normal(completions.shape, np.float32) * (completions != PAD)


def differentiated(model, find, weights):
    """Gives log-probs and entropies of `find(model)` and the gradient of the weighted log-probs."""
    graph, adapters, base = nnx.split(model, nnx.LoRAParam, ...)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def weighted(adapters):
        logps, entropies = find(nnx.merge(graph, adapters, base))
        return jnp.sum(logps * weights), (logps, entropies)

    (_, found), gradient = weighted(adapters)
    return *found, gradient


@pytest.fixture(scope="module")
def plain(policy, tokens):
    prompts, completions, weights = tokens

    def find(model):
        logps, logits = common.compute_per_token_logps(
            *nnx.split(model),
            jnp.repeat(prompts, GENERATIONS, axis=0),
            jnp.asarray(completions),
            PAD,
            1,
            stop_gradient=False,
            return_logits=True,
            temperature=TEMPERATURE,
        )
        log_softmax = jax.nn.log_softmax(logits)
        return logps, -jnp.sum(jnp.exp(log_softmax) * log_softmax, axis=-1)

    return differentiated(policy, find, weights)


@pytest.mark.parametrize(("places_at_a_time", "copies", "packed"), [(COMPLETION, 1, False), (3, GENERATIONS, True)])
def test_log_probs_entropies_and_gradients_are_those_of_tunix(
    policy, tokens, plain, places_at_a_time, copies, packed, monkeypatch
):
    prompts, completions, weights = tokens
    packed_places = padding.packed_places(completions != PAD) if packed else None
    assert not packed or packed_places.size < completions.size
    monkeypatch.setattr(log_probs, "LOGITS_AT_A_TIME", places_at_a_time * completions.shape[0] * VOCABULARY)
    repeated = np.repeat(prompts, copies, axis=0)
    found = differentiated(
        policy,
        lambda model: log_probs.completion_log_probs(model, repeated, completions, packed_places, PAD, TEMPERATURE),
        weights,
    )
    for ours, theirs in zip(found[:2], plain[:2], strict=True):
        np.testing.assert_allclose(np.where(weights, ours, 0), np.where(weights, theirs, 0), atol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (found[2], plain[2])), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()) + 1e-7)


def test_no_array_has_a_logit_for_every_token(policy, tokens, monkeypatch):
    """The compiled program of forward and backward pass is searched for such arrays."""
    prompts, completions, weights = tokens
    monkeypatch.setattr(log_probs, "LOGITS_AT_A_TIME", 2 * completions.shape[0] * VOCABULARY)
    graph, adapters, base = nnx.split(policy, nnx.LoRAParam, ...)

    def weighted(adapters):
        model = nnx.merge(graph, adapters, base)
        logps, _ = log_probs.completion_log_probs(model, prompts, completions, None, PAD, TEMPERATURE)
        return jnp.sum(logps * weights)

    text = jax.jit(jax.grad(weighted)).lower(adapters).compile().as_text()
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"\[([\d,]+)\]", text)}
    embedding = {SIZES["embed_dim"], VOCABULARY}
    sizes = [math.prod(shape) for shape in shapes if VOCABULARY in shape and set(shape) != embedding]
    assert max(sizes) == 2 * completions.shape[0] * VOCABULARY
