"""The sampler: tokens do not depend on the batch, noise derives from seed and step, stop tokens stay."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from tunix.generate import tokenizer_adapter
from tunix.rl.rollout import base_rollout

from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.generation import cache_length
from gsm8k_grpo.generation.queue import Decoding
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.grpo.rollout import SeededRollout
from gsm8k_grpo.models import building, families, tokenizers
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.lora import with_lora
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from plain_sampling import plain_tokens, with_noted_shapes
from small_models import (
    ARCHITECTURE,
    FAMILIES,
    NUMBER_PROMPTS,
    NUMBER_STOPS,
    ONE_FAMILY_QUICK,
    QUESTIONS,
    Numbers,
    completed,
)

LIMIT = 12
STOPS = (107, 1)  # <end_of_turn>, <eos>
ASKED = [build_prompt("", question) for question in QUESTIONS]
MESH = make_mesh(1, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train_tokenizer(ASKED * 20, 400))
    return tokenizers.load_tokenizer(path)


@pytest.fixture(scope="module")
def model():
    return building.initialise(building.tunix_config(ARCHITECTURE), seed=0)


@pytest.fixture(scope="module")
def sampler(model, tokenizer):
    return Sampler(model, tokenizer, 88, MESH)


def test_greedy_completions_do_not_depend_on_the_batch(sampler, tokenizer):
    assert tokenizers.stop_ids(tokenizer, families.GEMMA) == STOPS
    together = completed(sampler, ASKED, 4, 72, LIMIT, STOPS, MESH)
    uneven = completed(sampler, ASKED[::-1], 3, 72, LIMIT, STOPS, MESH)  # one of them in a batch of its own
    assert sorted(together) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert [together[index, 0] for index in range(4)] == [uneven[3 - index, 0] for index in range(4)]
    assert all(each.tokens <= LIMIT and each.truncated == (each.tokens == LIMIT) for each in together.values())


def test_a_prompt_and_its_completion_that_exceed_the_cache_are_refused(sampler):
    with pytest.raises(ValueError, match="69 \\+ 20 tokens are more than the cache can hold"):
        sampler(ASKED[:1], 20, 69)


def test_samples_differ_and_do_not_depend_on_the_batch(sampler):
    decoding = Decoding(temperature=1.0, top_k=None, top_p=1.0, seed=5)
    arguments = (72, LIMIT, STOPS, MESH)
    by_five, by_three = (completed(sampler, ASKED, size, *arguments, decoding, samples=3) for size in (5, 3))
    assert sorted(by_five) == [(index, sample) for index in range(4) for sample in range(3)]
    assert by_five == by_three
    assert len({each.text for each in by_five.values()}) > 6
    other = Decoding(temperature=1.0, top_k=None, top_p=1.0, seed=6)
    assert completed(sampler, ASKED, 5, *arguments, other, samples=3) != by_five


@pytest.fixture(scope="module")
def engine(model, tokenizer):
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=LIMIT,
        max_prompt_length=72,
        kv_cache_size=88,
        temperature=1.0,
        top_p=1.0,
        eos_tokens=list(STOPS),
    )
    adapted = tokenizer_adapter.TokenizerAdapter(tokenizer)
    return SeededRollout(model, adapted, MESH, config, seed=7), config


def drawn(engine, step, calls=1):
    rolled, config = engine
    rolled.start_draw(step)
    return [[row.tolist() for row in rolled.generate(ASKED, config).tokens] for _ in range(calls)]


def test_noise_differs_by_step_and_call_and_row_but_not_between_runs(engine):
    first, second = drawn(engine, step=3, calls=2)
    assert first != second  # stock Tunix draws the same noise at every call
    assert first != drawn(engine, step=4)[0]
    assert drawn(engine, step=3, calls=2) == [first, second]
    rolled, config = engine
    rolled.start_draw(3)
    rows = rolled.generate(ASKED[:1] * 4, config).tokens
    assert len({tuple(row.tolist()) for row in rows}) > 1


def test_the_stop_token_stays_in_the_tokens_unless_the_limit_cut_them(engine):
    rolled, config = engine
    stopped = 0
    for step in range(40):
        rolled.start_draw(step)
        output = rolled.generate(ASKED, config)
        for row, text in zip(output.tokens, output.text, strict=True):
            assert len(row) <= LIMIT
            assert len(row) == LIMIT or row[-1] in STOPS
            stopped += row[-1] in STOPS
            assert "<end_of_turn>" not in text
    assert stopped > 0


@pytest.fixture(params=["<end_of_turn>", "<eos>"])
def leaning(request, engine, model, tokenizer):
    """The rollout of a model that draws this stop token at about every tenth place, and the token."""
    rolled, _ = engine
    copy = nnx.clone(model)
    embedding = copy.embedder.input_embedding
    stop = tokenizer.piece_to_id(request.param)
    embedding[...] = embedding[...].at[:, 0].set(0.5).at[stop, 0].set(1.5)  # a feature that is always on
    rolled._sampler.transformer_state = nnx.variables(copy)
    yield rolled, request.param
    rolled._sampler.transformer_state = nnx.variables(model)


def test_each_stop_token_ends_a_completion_and_stays_in_its_tokens(leaning, engine, tokenizer):
    (rolled, token), config = leaning, engine[1]
    stop, ended = tokenizer.piece_to_id(token), 0
    for step in range(10):
        rolled.start_draw(step)
        output = rolled.generate(ASKED, config)
        for row, text in zip(map(np.ndarray.tolist, output.tokens), output.text, strict=True):
            assert row[-1] in STOPS or len(row) == LIMIT
            assert not set(STOPS) & set(row[:-1])
            assert text == tokenizer.decode(row[:-1] if row[-1] in STOPS else row) and token not in text
            ended += row[-1] == stop
    assert ended > 10


def test_each_stop_token_ends_a_completion_of_evaluation(leaning):
    rolled, token = leaning
    decoding = Decoding(temperature=1.0, top_k=None, top_p=1.0, seed=5)
    found = list(completed(rolled._sampler, ASKED, 4, 72, LIMIT, STOPS, MESH, decoding, samples=5).values())
    assert {each.truncated for each in found} == {True, False}
    for each in found:
        assert each.tokens == LIMIT or not each.truncated
        assert token not in each.text
    assert sum(not each.truncated for each in found) > 5


def test_log_probs_are_taken_at_the_rollouts_temperature(model, tokenizer):
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=LIMIT, max_prompt_length=8, kv_cache_size=24, temperature=0.5, eos_tokens=list(STOPS)
    )
    rolled = SeededRollout(model, tokenizer_adapter.TokenizerAdapter(tokenizer), MESH, config, seed=0)
    prompt, completion = np.array([[2, 106, 150, 151]]), np.array([[152, 153, 107]])
    found = np.asarray(rolled.get_per_token_logps(jax.numpy.array(prompt), jax.numpy.array(completion)))
    tokens = jax.numpy.array(np.concatenate([prompt, completion], axis=1))
    mask = jax.numpy.tril(jax.numpy.ones((1, 7, 7), bool))
    forward = nnx.jit(lambda model: model(tokens, jax.numpy.arange(7)[None], None, mask)[0])
    logits = np.asarray(forward(model), np.float64)[0, 3:6] / 0.5
    expected = logits[range(3), completion[0]] - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


OPTIONS = {"greedy": {"top_p": None}, "all": {"temperature": 1.1, "top_p": 1.0}}


@pytest.mark.parametrize("family", ONE_FAMILY_QUICK)
def test_completions_are_those_of_the_plain_path(family, monkeypatch):
    """Grouped prompts, padding, shorter prompts, a growing cache and smaller batches do not change the tokens."""
    monkeypatch.setattr(cache_length, "WORTH_A_PROGRAM_TOKENS", 1)
    model = building.initialise(building.tunix_config(FAMILIES[family]), seed=3)
    limit, repeats = 14, 4
    keys = jax.random.split(jax.random.key(5), len(NUMBER_PROMPTS) * repeats)
    asked = [prompt for prompt in NUMBER_PROMPTS for _ in range(repeats)]
    sampler = Sampler(model, Numbers(), 80, MESH)
    shapes = []
    for name in ("prefill", "decode"):
        monkeypatch.setattr(sampler, name, with_noted_shapes(getattr(sampler, name), shapes))
    for name, options in OPTIONS.items():
        shapes.clear()
        with MESH:
            output = sampler(asked, limit, 34, eos_tokens=NUMBER_STOPS, seed=keys, repeats=repeats, **options)
        rows = zip(asked, keys, strict=True)
        expected = [plain_tokens(model, prompt, key, limit, options.get("temperature")) for prompt, key in rows]
        assert [row.tolist() for row in output.tokens] == expected, name
        stopped = [row[:-1] if row[-1] in NUMBER_STOPS else row for row in expected]
        assert output.text == [" ".join(map(str, row)) for row in stopped]
        assert output.padded_prompt_tokens.shape == (12, 34)
        # Each prompt is computed once, at half the limit. Then all rows decode, half, and a quarter, as rows end. The
        # cache has room for half of a completion's tokens, then for all.
        assert shapes[:2] == [(3, 17), (12, 17 + 7)] and shapes[-1][1] == 32
        if name == "all":
            assert len(set(map(len, expected))) > 3 and shapes[-1][0] in (6, 3)


@pytest.mark.parametrize(
    ("top_k", "top_p", "slots"),
    [
        (20, 0.7, 4),
        pytest.param(20, 0.7, None, marks=pytest.mark.slow),
        pytest.param(5, 1.0, None, marks=pytest.mark.slow),
        pytest.param(None, 0.7, None, marks=pytest.mark.slow),
    ],
)
def test_what_sampling_leaves_out_is_summed_over_a_rows_own_tokens(monkeypatch, top_k, top_p, slots):
    """Also where rows end, slots are refilled, batches become smaller and caches grow."""
    monkeypatch.setattr(cache_length, "WORTH_A_PROGRAM_TOKENS", 1)
    model = building.initialise(building.tunix_config(FAMILIES["gemma2"]), seed=3)
    keys = jax.random.split(jax.random.key(5), 12)
    asked = [prompt for prompt in NUMBER_PROMPTS for _ in range(4)]
    sampler, shapes = Sampler(model, Numbers(), 80, MESH), []
    monkeypatch.setattr(sampler, "decode", with_noted_shapes(sampler.decode, shapes))
    arguments = {"eos_tokens": NUMBER_STOPS, "seed": keys, "temperature": 1.3, "repeats": 4, "slots": slots}
    with MESH:
        found = sampler(asked, 14, 40, top_k=top_k, top_p=top_p, **arguments)
        whole = sampler(asked, 14, 40, top_p=1.0, **arguments)
    assert len({rows for rows, _ in shapes}) > 1 and len(set(map(len, found.tokens))) > 2
    forward = nnx.jit(lambda model, ids, places, mask: model(ids, places, None, mask)[0])
    for prompt, tokens, unsampled in zip(asked, found.tokens, found.unsampled, strict=True):
        given = [2, *map(int, prompt.split())]
        ids = np.zeros((1, 32), np.int32)
        ids[0, : len(given) + len(tokens)] = [*given, *tokens]
        logits = np.asarray(forward(model, ids, np.arange(32)[None], np.tri(32, dtype=bool)[None]))[0]
        expected = 0.0
        for place in range(len(given) - 1, len(given) + len(tokens) - 1):
            weights = np.sort(np.exp(logits[place, 1:].astype(np.float64) / 1.3))[::-1]  # without padding, token 0
            kept = weights[:top_k]
            shares = kept / kept.sum()
            expected += 1 - kept[np.cumsum(shares) - shares <= top_p].sum() / weights.sum()
        assert expected > 0.1 and unsampled == pytest.approx(expected, abs=2e-3)
    assert whole.unsampled.tolist() == [0] * 12


def test_prompts_that_differ_within_a_group_are_computed_row_by_row(engine, monkeypatch):
    monkeypatch.setattr(engine[0], "_generations", 4)
    grouped = drawn(engine, step=0)
    monkeypatch.undo()
    assert grouped == drawn(engine, step=0)


def test_rollouts_in_fewer_slots_draw_the_same_tokens(engine, monkeypatch):
    rolled, _ = engine
    together, unsampled = drawn(engine, step=0), rolled.unsampled
    monkeypatch.setattr(cache_length, "WORTH_A_PROGRAM_TOKENS", 2)
    monkeypatch.setattr(rolled, "_slots", 2)
    assert drawn(engine, step=0) == together and len(rolled.unsampled) == len(unsampled) == len(ASKED)


@pytest.mark.slow
def test_merged_weights_draw_the_tokens_of_the_current_policy(model, tokenizer, engine):
    lora = {
        "rank": 4,
        "alpha": 8,
        "dropout": 0,
        "base_weights": None,
        "target_modules": list(family_of(ARCHITECTURE).lora_modules),
    }
    policy, config = with_lora(model, lora, 0, MESH), engine[1]
    adapted = tokenizer_adapter.TokenizerAdapter(tokenizer)
    both = [(SeededRollout(policy, adapted, MESH, config, seed=7, lora=each), config) for each in (None, lora)]
    assert [bool(each._sampler._merged_lora) for each, _ in both] == [False, True]
    found = []
    for step in range(3):
        for path, leaf in nnx.to_flat_state(nnx.state(policy, nnx.LoRAParam)):
            leaf[...] = 0.1 * jax.random.normal(jax.random.key(step + len(str(path))), leaf.shape)
        apart, merged = (drawn(each, step=0)[0] for each in both)
        assert merged == apart and merged not in found
        found.append(merged)


SHARDED = """
import json

import jax
from flax import nnx
from gsm8k_grpo.generation import cache_length
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models import building
from gsm8k_grpo.models.mesh import make_mesh
from small_models import FAMILIES, NUMBER_PROMPTS, NUMBER_STOPS, Numbers

cache_length.WORTH_A_PROGRAM_TOKENS = 2
found = {}
for fsdp, tp in ((1, 1), (2, 4)):
    mesh = make_mesh(fsdp, tp)
    sizes = {**FAMILIES["gemma2"], "num_kv_heads": 4}
    graph, state = nnx.split(building.initialise(building.tunix_config(sizes), seed=3))
    model = nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))
    sampler = Sampler(model, Numbers(), 80, mesh)
    keys = jax.random.split(jax.random.key(5), 12)
    batches, decode = [], sampler.decode

    def noting(weights, state, *arguments, **options):
        batches.append([len(state.done), str(state.cache["layer_0"]["v"].sharding.shard_shape((12, 4, 40, 8)))])
        return decode(weights, state, *arguments, **options)

    sampler.decode = noting
    asked = [prompt for prompt in NUMBER_PROMPTS for _ in range(4)]
    with mesh:
        output, refilled = (
            sampler(
                *(asked, 14, 40),
                eos_tokens=NUMBER_STOPS,
                temperature=1.0,
                top_p=1.0,
                seed=keys,
                repeats=4,
                slots=slots,
            )
            for slots in (12, 4)
        )
    tokens = [row.tolist() for row in output.tokens]
    assert [row.tolist() for row in refilled.tokens] == tokens
    found[f"{fsdp} {tp}"] = {"tokens": tokens, "batches": batches}
print(json.dumps(found))
"""


@pytest.mark.slow
def test_eight_devices_draw_the_same_tokens_as_one(root):
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        cwd=root,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": "scripts:tests/helpers",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone, sharded = json.loads(done.stdout.splitlines()[-1]).values()
    assert sharded["tokens"] == alone["tokens"]
    assert len(alone["batches"]) > 1 and alone["batches"][0][0] == 12
    assert {place for _, place in sharded["batches"]} == {"(6, 1, 40, 8)"}
