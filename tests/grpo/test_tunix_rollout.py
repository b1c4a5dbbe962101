"""Defects of Tunix 0.1.7 in rollouts, each shown on stock Tunix and mended here (docs/tunix.md has their numbers).

When a release of Tunix mends a defect, the test of its stock half fails, and our remedy may go.
"""

import dataclasses
import json
import os
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from tunix.generate import tokenizer_adapter
from tunix.rl import common
from tunix.rl.rollout import base_rollout, vanilla_rollout

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.generation.queue import Completion
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.rollout import SeededRollout
from gsm8k_grpo.models import building, storage, tokenizers
from small_gemma import BOS, MAX_PROMPT, PAD, PROMPTS, STOP, initialised, leaning
from small_models import ARCHITECTURE, Numbers, completed

LIMIT = 24
CACHE = cache_tokens(MAX_PROMPT, LIMIT)
ROLLOUT = base_rollout.RolloutConfig(
    max_tokens_to_generate=LIMIT,
    max_prompt_length=MAX_PROMPT,
    kv_cache_size=CACHE,
    temperature=0.7,
    top_p=1.0,
    eos_tokens=[STOP],
)


@pytest.fixture(scope="module")
def base(mesh):
    return initialised(mesh)


@pytest.fixture(scope="module")
def model(base):
    """Writes varied tokens: logits are larger, and branches outweigh the residual stream, which repeats the token."""
    copy = nnx.clone(base)
    copy.final_norm.scale[...] += 9  # Gemma stores scale − 1
    for path, leaf in nnx.to_flat_state(nnx.state(copy)):
        if "post_" in "/".join(map(str, path)):
            leaf[...] = jnp.full(leaf.shape, 1.0)
    return copy


@pytest.fixture(scope="module")
def stopping(base):
    """Stops after about two tokens."""
    return leaning(base, STOP, 1.5)


@pytest.fixture(scope="module")
def drawing_padding(base):
    """Always finds the padding token the likeliest."""
    return leaning(base, PAD, 4.0)


class Engines:
    """Tunix's rollout and ours, compiled once for all models of these tests."""

    def __init__(self, model, tokenizer, mesh):
        adapted = tokenizer_adapter.TokenizerAdapter(tokenizer)
        size = base_rollout.CacheConfig(CACHE, ARCHITECTURE["num_layers"], 2, 8)
        self._stock = vanilla_rollout.VanillaRollout(model, adapted, size)
        self._ours = SeededRollout(model, adapted, mesh, ROLLOUT, seed=7)

    def stock(self, model):
        self._stock._sampler.transformer_state = nnx.variables(model)
        return self._stock

    def ours(self, model):
        self._ours._sampler.transformer_state = nnx.variables(model)
        self._ours.start_draw(0)
        return self._ours


@pytest.fixture(scope="module")
def engines(model, tokenizer, mesh):
    return Engines(model, tokenizer, mesh)


def token_lists(output):
    return [row.tolist() for row in output.tokens]


def test_noise_is_the_same_at_every_call_of_stock(engines, model):
    """Defect 2."""
    stock = engines.stock(model)
    first = token_lists(stock.generate(PROMPTS, ROLLOUT))
    assert token_lists(stock.generate(PROMPTS, ROLLOUT)) == first
    assert len(set(map(tuple, first))) == 4  # the rows differ, so there is noise


def test_noise_differs_here_by_step_draw_and_row_and_is_repeatable(engines, model):
    """Defect 2."""
    ours = engines.ours(model)

    def drawn(step, draw):
        ours.start_draw(step, draw)
        return token_lists(ours.generate([PROMPTS[0]] * 4, ROLLOUT))

    seen = [row for place in ((0, 0), (0, 1), (1, 0), (1, 1)) for row in drawn(*place)]
    assert len(set(map(tuple, seen))) == 16
    assert drawn(0, 1) == seen[4:8]


@pytest.mark.parametrize("sizes", [(2, 2), pytest.param((1, 1, 1, 1), marks=pytest.mark.slow)])
def test_noise_does_not_depend_here_on_how_rows_are_split_into_calls(engines, model, sizes):
    """Defect 2."""
    ours = engines.ours(model)

    def drawn(*sizes):
        ours.start_draw(3)
        left, rows = iter(PROMPTS), []
        for size in sizes:
            rows += token_lists(ours.generate([next(left) for _ in range(size)], ROLLOUT))
        return rows

    assert drawn(4) == drawn(*sizes)


def test_the_stop_token_stays_here_unless_the_limit_cut_the_completion(engines, base):
    """Defect 3."""
    ours, ended, cut = engines.ours(leaning(base, STOP, 1.0)), 0, 0
    for step in range(5):
        ours.start_draw(step)
        for row in token_lists(ours.generate(PROMPTS, ROLLOUT)):
            ended += row[-1] == STOP
            cut += row[-1] != STOP
            assert len(row) == LIMIT or row[-1] == STOP
            assert STOP not in row[:-1]
    assert ended and cut


def test_the_end_of_the_turn_is_run_past_by_stock(engines, stopping):
    """Defect 14."""
    rows = token_lists(engines.stock(stopping).generate(PROMPTS, dataclasses.replace(ROLLOUT, eos_tokens=None)))
    assert any(STOP in row[:-1] for row in rows)


def test_the_end_of_the_turn_ends_the_completion_here(engines, stopping):
    """Defect 14."""
    output = engines.ours(stopping).generate(PROMPTS, ROLLOUT)
    assert all(row.index(STOP) == len(row) - 1 for row in token_lists(output))
    assert not any("<end_of_turn>" in text for text in output.text)


def test_a_prompt_begins_with_one_bos_here(engines, model, tokenizer):
    """Defect 14."""
    padded = engines.ours(model).generate([PROMPTS[0], f"<bos>{PROMPTS[0]}"] * 2, ROLLOUT).left_padded_prompt_tokens
    plain, doubled, *_ = [row[row != PAD].tolist() for row in padded]
    assert plain[:2] == [BOS, tokenizer.piece_to_id("<start_of_turn>")]
    assert len(plain) == tokenizers.count_prompt_tokens(tokenizer, PROMPTS[0])
    for tokens in (plain, doubled):
        assert tokens[0] == BOS and BOS not in tokens[1:]


TOKENS = jnp.array([[BOS, 106, 150, 151]]), jnp.array([[152, 153, 154, 299, STOP]])


def loss_logps(model, temperature):
    """The log-probs of `TOKENS` that the loss computes."""
    graph, state = nnx.split(model)
    return np.asarray(common.compute_per_token_logps(graph, state, *TOKENS, PAD, 1, temperature=temperature))


def test_old_log_probs_are_taken_at_another_temperature_than_the_loss_by_stock(engines, model):
    """Defect 4."""
    old = np.asarray(engines.stock(model).get_per_token_logps(*TOKENS))
    ratio = np.exp(loss_logps(model, ROLLOUT.temperature) - old)
    assert np.abs(ratio - 1.0).max() > 0.1
    np.testing.assert_allclose(old, loss_logps(model, 1.0), atol=1e-4)


def test_old_log_probs_are_the_losses_own_here(engines, model):
    """Defect 4."""
    old = np.asarray(engines.ours(model).get_per_token_logps(*TOKENS))
    np.testing.assert_allclose(np.exp(loss_logps(model, ROLLOUT.temperature) - old), 1.0, atol=1e-4)


# 5: greedy decoding


@pytest.fixture(scope="module")
def likeliest(model, tokenizer):
    """The likeliest tokens after each prompt, up to the stop token, each by a full forward pass."""
    graph, state = nnx.split(model)
    size = MAX_PROMPT + LIMIT
    positions, mask = jnp.arange(size)[None], jnp.tril(jnp.ones((1, size, size), bool))
    forward = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens, positions, None, mask)[0][0])
    found = []
    for prompt in PROMPTS:
        tokens = [BOS, *tokenizer.encode(prompt)]
        start = len(tokens)
        while len(tokens) < start + LIMIT and (len(tokens) == start or tokens[-1] != STOP):
            padded = jnp.array([tokens + [PAD] * (size - len(tokens))])
            logits = np.array(forward(state, padded))[len(tokens) - 1]
            logits[PAD] = -np.inf
            tokens.append(int(np.argmax(logits)))
        found.append(tokens[start:])
    assert min(len(set(row)) for row in found) > 3  # the model does not just repeat itself
    return found


def test_temperature_0_is_not_greedy_in_stock(engines, model, likeliest):
    """Defect 5."""
    output = engines.stock(model)._sampler(
        PROMPTS, LIMIT, max_prompt_length=MAX_PROMPT, eos_tokens=[STOP], temperature=0.0, top_p=1.0
    )
    for found, expected in zip(token_lists(output), likeliest, strict=True):
        assert found[:4] != expected[:4]


def test_greedy_takes_the_likeliest_token_here(model, tokenizer, mesh, likeliest):
    """Defect 5."""
    numbers = mock.Mock(wraps=tokenizer, spec=["encode", "decode", "bos_id", "eos_id", "pad_id"])
    numbers.decode.side_effect = list  # texts are the ids themselves
    sampler = Sampler(model, numbers, CACHE, mesh)
    found = completed(sampler, PROMPTS, 4, MAX_PROMPT, LIMIT, (STOP,), mesh)
    for index, expected in enumerate(likeliest):
        kept = [token for token in expected if token != STOP]
        assert found[index, 0] == Completion(kept, len(expected), STOP not in expected)


def test_a_prompt_that_is_too_long_is_padded_to_another_shape_by_stock(engines, model):
    """Defect 7."""
    output = engines.stock(model).generate(PROMPTS, dataclasses.replace(ROLLOUT, max_prompt_length=33))
    assert output.left_padded_prompt_tokens.shape == (4, 64)


def test_a_prompt_that_is_too_long_is_refused_by_name_here(engines, model):
    """Defect 7."""
    longest = max(1 + len(engines.ours(model)._sampler.tokenizer.encode(prompt)) for prompt in PROMPTS)
    with pytest.raises(PipelineError, match=rf"prompt.max_tokens: a prompt of {longest} tokens is longer than 33"):
        engines.ours(model).generate(PROMPTS, dataclasses.replace(ROLLOUT, max_prompt_length=33))


def test_padding_is_drawn_as_a_token_by_stock(engines, drawing_padding):
    """A defect without number: everything downstream tells tokens from padding by the id."""
    assert all(PAD in row for row in token_lists(engines.stock(drawing_padding).generate(PROMPTS, ROLLOUT)))


def test_padding_is_never_drawn_here(engines, drawing_padding, tokenizer, mesh):
    """A defect without number."""
    ours = engines.ours(drawing_padding)
    assert not any(PAD in row for row in token_lists(ours.generate(PROMPTS, ROLLOUT)))
    sampler = Sampler(drawing_padding, tokenizer, CACHE, mesh)
    with mesh:
        greedy = sampler(PROMPTS, LIMIT, max_prompt_length=MAX_PROMPT, eos_tokens=[STOP], temperature=1.0, top_p=None)
    assert not any(PAD in row for row in token_lists(greedy))


@pytest.mark.parametrize("gathered", [True, False])
def test_the_rollout_gathers_weights_only_where_the_settings_say_so(gathered):
    """`mesh.decode_weights`: without memory for whole copies, the rollout decodes with half of each matrix."""
    mesh = Mesh(np.array(jax.devices()[:1] * 2).reshape(2, 1), ("fsdp", "tp"))  # nothing is placed on it
    training_settings = effective_settings("tiny", {})["training"]
    config = tunix_setup.rl_cluster_config(mesh, training_settings, MAX_PROMPT, (STOP,), 0, None, gathered)
    policy = storage.abstract_model(building.tunix_config(ARCHITECTURE), mesh, jnp.float32)
    rollout = config.rollout_engine(policy, Numbers(), mesh, config.rollout_config)
    matrices = 4 * sum(leaf.size for leaf in jax.tree.leaves(nnx.state(policy)) if leaf.ndim > 1)
    share = rollout._sampler.decoded_weight_bytes() / matrices
    assert share == pytest.approx(1.0 if gathered else 0.5, rel=0.05)


CACHE_PROGRAM = """
import json, jax, jax.numpy as jnp
from flax import nnx
from tunix.generate import sampler
from tunix.models.gemma import model as gemma
from gsm8k_grpo.generation.decoding_state import DrawingOptions
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models import building, storage
from gsm8k_grpo.models.mesh import make_mesh
config = building.tunix_config(json.loads(input()))
model = nnx.eval_shape(lambda: gemma.Gemma(config, rngs=nnx.Rngs(0)))
tokenizer = type("", (), {name: lambda self: 0 for name in ("encode", "decode", "bos_id", "eos_id", "pad_id")})()
stock = sampler.Sampler(model, tokenizer, sampler.CacheConfig(16, 2, 2, 8))
(keys,) = {tuple(shard.data.shape for shard in layer[name].addressable_shards)
    for layer in stock.transformer.init_cache(4, 16, jnp.float32).values() for name in "kv"}
print(json.dumps(keys))
mesh = make_mesh(2, 2)
ours = Sampler(storage.abstract_model(config, mesh, jnp.float32), tokenizer, 16, mesh)
prefill = ours.lower_prefill(4, 1, 8, 16, DrawingOptions(8, (1,), 0.0, None, 1.0))
program = prefill.compile()
shards = {tuple(sharding.shard_shape(leaf.shape)) for leaf, sharding in zip(
    jax.tree.leaves(prefill.out_info.cache), jax.tree.leaves(program.output_shardings.cache)) if len(leaf.shape) == 4}
print(json.dumps(sorted(shards)))
"""


@pytest.mark.slow
def test_stock_creates_the_cache_whole_on_one_device_and_ours_is_created_in_its_shards():
    """A defect without number."""
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CACHE_PROGRAM],
        input=json.dumps(ARCHITECTURE),
        env={**os.environ, **devices, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    stock, ours = map(json.loads, done.stdout.splitlines())
    assert stock == [[4, 16, 2, 8]]  # rows, positions, KV heads, sizes: all on one device
    # Rows, KV heads, then sizes and positions of keys, positions and sizes of values: on each of the four devices.
    assert ours == [[2, 1, 8, 16], [2, 1, 16, 8]]
