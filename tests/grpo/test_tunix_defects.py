"""The silent defects of Tunix 0.1.7, each shown twice: on stock Tunix, and mended in what this project runs.

When a new release of Tunix mends one, the test of its stock half fails: then ours may go.
"""

import dataclasses
import importlib
import inspect
import json
import os
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import qwix
import safetensors.numpy
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from tunix.generate import tokenizer_adapter
from tunix.models import safetensors_saver
from tunix.models.gemma import model as gemma
from tunix.models.qwen2 import model as qwen2
from tunix.rl import common, function_registry, rl_learner
from tunix.rl import trainer as rl_trainer
from tunix.rl.grpo import dapo_learner, grpo_learner
from tunix.rl.rollout import base_rollout, vanilla_rollout
from tunix.sft import checkpoint_manager, peft_trainer

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.generation import padding
from gsm8k_grpo.generation.batches import Completion
from gsm8k_grpo.generation.cache_size import cache_tokens
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.grpo import formulas, tunix_setup
from gsm8k_grpo.grpo.checkpoint_names import checkpoint_steps
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.loop import train_to_end
from gsm8k_grpo.grpo.rollout import SeededRollout
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.huggingface import config_json, tensor_names, weight_reading, weight_writing
from gsm8k_grpo.models import building, storage, tokenizers
from gsm8k_grpo.models.lora import with_lora
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from gsm8k_grpo.rewards.answers import Tags
from small_models import ARCHITECTURE, FAMILIES, QUESTIONS, completed

PROMPTS = [build_prompt("", question) for question in QUESTIONS]
PAD, EOS, BOS, STOP = 0, 1, 2, 107
MAX_PROMPT, LIMIT = 64, 24
CACHE = cache_tokens(MAX_PROMPT, LIMIT)
ROLLOUT = base_rollout.RolloutConfig(
    max_tokens_to_generate=LIMIT,
    max_prompt_length=MAX_PROMPT,
    kv_cache_size=CACHE,
    temperature=0.7,
    top_p=1.0,
    eos_tokens=[STOP],
)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(tmp_path_factory):
    """Each program is compiled without most optimizations, and once: nearly all of this file's time is compilation."""
    chosen = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in chosen}

    def configure(values):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    configure(chosen)
    yield
    configure(before)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(1, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train_tokenizer(PROMPTS * 20, ARCHITECTURE["vocabulary_size"]))
    return tokenizers.load_tokenizer(path)


def initialised(mesh, **sizes):
    """A model with random weights, placed as a loaded one is."""
    graph, state = nnx.split(building.initialise(building.tunix_config({**ARCHITECTURE, **sizes}), seed=0))
    return nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))


@pytest.fixture(scope="module")
def base(mesh):
    return initialised(mesh)


def leaning(model, token, weight):
    """A copy that prefers a token, whatever the context: a feature that is always on, and its weight in the logits."""
    copy = nnx.clone(model)
    embedding = copy.embedder.input_embedding
    embedding[...] = embedding[...].at[:, 0].set(0.5).at[token, 0].set(weight)
    return copy


@pytest.fixture(scope="module")
def model(base):
    """Says something: larger logits, and branches that outweigh the residual stream, which would repeat each token."""
    copy = nnx.clone(base)
    copy.final_norm.scale[...] += 9  # Gemma stores scale − 1
    for path, leaf in nnx.to_flat_state(nnx.state(copy)):
        if "post_" in "/".join(map(str, path)):
            leaf[...] = jnp.full(leaf.shape, 1.0)
    return copy


@pytest.fixture(scope="module")
def stopping(base):
    """Stops at about every second token."""
    return leaning(base, STOP, 1.5)


@pytest.fixture(scope="module")
def drawing_padding(base):
    """Finds the padding token the likeliest, always."""
    return leaning(base, PAD, 4.0)


class Engines:
    """The two rollouts, compiled once for all models of these tests."""

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


def lists(output):
    return [row.tolist() for row in output.tokens]


def stock_example(config, completions):
    """(What stock's learner makes of these completions, its cluster): its own code, over a cluster that is a mock."""
    learner, cluster = object.__new__(grpo_learner.GRPOLearner), mock.MagicMock()
    cluster.rollout.pad_id.return_value = PAD
    cluster.cluster_config.rollout_config = base_rollout.RolloutConfig(max_tokens_to_generate=64)
    cluster.generate.return_value = base_rollout.RolloutOutput(
        text=["" for _ in completions],
        logits=None,
        tokens=[np.array(row) for row in completions],
        left_padded_prompt_tokens=np.full((len(completions), 4), 5),
        logprobs=None,
    )
    learner.rl_cluster, learner.algo_config, learner.metric_fns = cluster, config, []
    learner._rollout_micro_batch_size = learner._compute_logps_micro_batch_size = 1
    learner._compute_rewards = lambda **_: np.arange(len(completions), dtype=np.float32)
    return learner._generate_and_compute_advantage({"prompts": ["" for _ in completions]}), cluster


# 1: the KL penalty


def kl_gradient(penalty):
    """(Expected gradient of a penalty on sampled tokens, gradient of the exact KL), every token enumerated."""
    theta, reference = jnp.array([0.3, -1.0, 0.9, 0.0]), jax.nn.log_softmax(jnp.array([-0.5, 0.2, 0.4, 1.1]))

    def expected(theta):
        logps = jax.nn.log_softmax(theta)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(logps)) * penalty(logps, reference))

    def exact(theta):
        logps = jax.nn.log_softmax(theta)
        return jnp.sum(jnp.exp(logps) * (logps - reference))

    return np.asarray(jax.grad(expected)(theta)), np.asarray(jax.grad(exact)(theta))


def test_kl_penalty_without_gradient_is_stocks_default():
    """Defect 1."""
    mode = grpo_learner.GRPOConfig().kl_loss_mode
    assert mode == "kl"
    found, exact = kl_gradient(lambda logps, reference: common.compute_kl_divergence(logps, reference, mode))
    np.testing.assert_allclose(found, 0.0, atol=1e-6)
    assert np.linalg.norm(exact) > 0.3


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_penalty_has_a_gradient_here(estimator):
    """Defect 1."""
    found, exact = kl_gradient(lambda logps, reference: formulas.kl_per_token(logps, reference, estimator))
    cosine = found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)
    assert cosine > (0.999999 if estimator == "k2" else 0.8)
    assert np.linalg.norm(found) > 0.5 * np.linalg.norm(exact)


# 2: noise


def test_noise_is_the_same_at_every_call_of_stock(engines, model):
    """Defect 2."""
    stock = engines.stock(model)
    first = lists(stock.generate(PROMPTS, ROLLOUT))
    assert lists(stock.generate(PROMPTS, ROLLOUT)) == first
    assert len(set(map(tuple, first))) == 4  # so it is noise


def test_noise_differs_here_by_step_and_draw_and_row_and_comes_again(engines, model):
    """Defect 2."""
    ours = engines.ours(model)

    def drawn(step, draw):
        ours.start_draw(step, draw)
        return lists(ours.generate([PROMPTS[0]] * 4, ROLLOUT))

    seen = [row for place in ((0, 0), (0, 1), (1, 0), (1, 1)) for row in drawn(*place)]
    assert len(set(map(tuple, seen))) == 16
    assert drawn(0, 1) == seen[4:8]


def test_noise_does_not_depend_here_on_how_rows_are_split_into_calls(engines, model):
    """Defect 2."""
    ours = engines.ours(model)

    def drawn(*sizes):
        ours.start_draw(3)
        left = list(PROMPTS)
        return [row for size in sizes for row in lists(ours.generate([left.pop(0) for _ in range(size)], ROLLOUT))]

    assert drawn(4) == drawn(2, 2) == drawn(1, 1, 1, 1)


# 3: the end of a turn


def test_the_stop_token_is_cut_off_and_out_of_the_loss_in_stock(engines, stopping):
    """Defect 3."""
    tokens = engines.stock(stopping).generate(PROMPTS, ROLLOUT).tokens
    assert all(len(row) < LIMIT and STOP not in row for row in tokens)
    example, _ = stock_example(grpo_learner.GRPOConfig(), [[5, 6], [7]])
    assert np.asarray(example.completion_mask).sum(axis=1).tolist() == [2, 1]  # those two and that one, no stop token


def test_the_stop_token_stays_here_unless_the_limit_cut_the_completion(engines, base):
    """Defect 3."""
    ours, ended, cut = engines.ours(leaning(base, STOP, 1.0)), 0, 0
    for step in range(5):
        ours.start_draw(step)
        for row in lists(ours.generate(PROMPTS, ROLLOUT)):
            ended += row[-1] == STOP
            cut += row[-1] != STOP
            assert len(row) == LIMIT or row[-1] == STOP
            assert STOP not in row[:-1]
    assert ended and cut


# 4: temperature

TOKENS = jnp.array([[BOS, 106, 150, 151]]), jnp.array([[152, 153, 154, 299, STOP]])


def loss_logps(model, temperature):
    """As the loss takes them."""
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
    """The likeliest tokens after each prompt, one full forward pass for each, up to the stop token."""
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
    assert min(len(set(row)) for row in found) > 3  # no model that only repeats itself
    return found


def test_temperature_0_is_not_greedy_in_stock(engines, model, likeliest):
    """Defect 5."""
    output = engines.stock(model)._sampler(
        PROMPTS, LIMIT, max_prompt_length=MAX_PROMPT, eos_tokens=[STOP], temperature=0.0, top_p=1.0
    )
    for found, expected in zip(lists(output), likeliest, strict=True):
        assert found[:4] != expected[:4]


def test_greedy_takes_the_likeliest_token_here(model, tokenizer, mesh, likeliest):
    """Defect 5."""
    numbers = mock.Mock(wraps=tokenizer, spec=["encode", "decode", "bos_id", "eos_id", "pad_id"])
    numbers.decode.side_effect = list  # the ids themselves for a text
    sampler = Sampler(model, numbers, CACHE, mesh)
    found = completed(sampler, PROMPTS, 4, MAX_PROMPT, LIMIT, (STOP,), mesh)
    for index, expected in enumerate(likeliest):
        kept = [token for token in expected if token != STOP]
        assert found[index, 0] == Completion(kept, len(expected), STOP not in expected)


# 6: DAPO


def test_dapo_changes_the_list_of_rewards_it_is_given_in_stock(monkeypatch):
    """Defect 6."""
    monkeypatch.setattr(grpo_learner.GrpoLearner, "__init__", lambda self, **_: None)
    rewards = [lambda **_: [0.0]]
    dapo_learner.DAPOLearner(rl_cluster=None, algo_config=dapo_learner.DAPOConfig(), reward_fns=rewards)
    assert len(rewards) == 2


def test_overlong_penalty_counts_characters_in_stock():
    """Defect 6."""
    overlong = dapo_learner.DAPOConfig().overlong_buffer
    text = "word " * 4000  # 20,000 characters, 4,000 words
    assert dapo_learner.reward_shaping([], [text, text[:16384]], None, overlong) == [-(20000 - 16384) / 4096, 0]


def test_overlong_penalty_counts_tokens_here():
    """Defect 6."""
    found = formulas.overlong_penalties(np.array([1, 48, 52, 56, 64]), max_completion_tokens=64, buffer_tokens=16)
    assert found.tolist() == [0.0, 0.0, -0.25, -0.5, -1.0]


def test_no_beta_still_pays_for_the_reference_in_stock():
    """Defect 6."""
    config = dapo_learner.DAPOConfig()
    assert config.beta is None
    _, cluster = stock_example(config, [[5], [6]])
    cluster.get_ref_per_token_logps.assert_called_once()


def test_dynamic_sampling_is_a_promise_in_stock():
    """Defect 6."""
    assert dapo_learner.DAPOConfig().dynamic_sampling
    assert "dynamic_sampling: bool = True  # TODO" in inspect.getsource(dapo_learner.DAPOConfig)
    for code in (dapo_learner.DAPOLearner, grpo_learner, rl_learner):
        assert "dynamic_sampling" not in inspect.getsource(code)


# 7: a prompt that is too long


def test_a_prompt_that_is_too_long_is_padded_to_another_shape_by_stock(engines, model):
    """Defect 7."""
    output = engines.stock(model).generate(PROMPTS, dataclasses.replace(ROLLOUT, max_prompt_length=33))
    assert output.left_padded_prompt_tokens.shape == (4, 64)


def test_a_prompt_that_is_too_long_is_refused_by_name_here(engines, model):
    """Defect 7."""
    longest = max(1 + len(engines.ours(model)._sampler.tokenizer.encode(prompt)) for prompt in PROMPTS)
    with pytest.raises(PipelineError, match=rf"prompt.max_tokens: a prompt of {longest} tokens is longer than 33"):
        engines.ours(model).generate(PROMPTS, dataclasses.replace(ROLLOUT, max_prompt_length=33))


# 8 and 9: stock's checkpoints; ours are below, with the runs


def test_early_checkpoints_are_deleted_by_stock(tmp_path):
    """Defect 8."""
    manager = checkpoint_manager.CheckpointManager(str(tmp_path))
    for step in range(1, 6):
        manager.save(step, nnx.Linear(2, 2, rngs=nnx.Rngs(0)), force=True)
    manager.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [3, 4, 5]


def test_the_last_checkpoint_forgets_its_step_in_stock(tmp_path):
    """Defect 9."""

    def trainer():
        config = peft_trainer.TrainingConfig(eval_every_n_steps=100, checkpoint_root_directory=str(tmp_path))
        layer = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        return rl_trainer.Trainer(layer, optax.sgd(0.1), config, lambda: {"global_step": 7})

    last = trainer()
    last._train_steps = 7
    last._save_last_checkpoint()
    last.checkpoint_manager.close()
    restored = trainer()
    assert (restored.train_steps, restored.restored_global_step()) == (7, 0)


# 11: padding


def test_short_completions_are_padded_to_the_limit_by_stock():
    """Defect 11."""
    example, _ = stock_example(grpo_learner.GRPOConfig(), [[5, 6], [7]])
    assert example.completion_ids.shape == (2, 64)


# 13: groups of two


def test_a_gap_of_a_thousandth_counts_like_one_of_3_in_stocks_groups_of_two():
    """Defect 13."""
    estimate = function_registry.get_advantage_estimator("grpo")
    found = estimate(rewards=np.array([0.0, 0.001, 0.0, 3.0]), num_generations=2)
    np.testing.assert_allclose(found, [-0.707, 0.707, -0.707, 0.707], atol=2e-3)


def test_groups_of_two_keep_their_gap_here_or_are_refused():
    """Defect 13."""
    with pytest.raises(PipelineError, match=r"training.advantage_estimator: with num_generations 2"):
        effective_settings("tiny", {"training": {"num_generations": 2, "advantage_estimator": "grpo"}})
    for estimator, share in (("drgrpo", 0.5), ("rloo", 1.0)):
        effective_settings("tiny", {"training": {"num_generations": 2, "advantage_estimator": estimator}})
        found = formulas.advantages(np.array([0.0, 0.001, 0.0, 3.0]), 2, estimator)
        np.testing.assert_allclose(found, share * np.array([-0.001, 0.001, -3.0, 3.0]), rtol=1e-5)


# 14: tokens of the chat template


def test_the_end_of_the_turn_is_run_past_by_stock(engines, stopping):
    """Defect 14."""
    rows = lists(engines.stock(stopping).generate(PROMPTS, dataclasses.replace(ROLLOUT, eos_tokens=None)))
    assert any(STOP in row[:-1] for row in rows)


def test_the_end_of_the_turn_ends_the_completion_here(engines, stopping):
    """Defect 14."""
    output = engines.ours(stopping).generate(PROMPTS, ROLLOUT)
    assert all(row.index(STOP) == len(row) - 1 for row in lists(output))
    assert not any("<end_of_turn>" in text for text in output.text)


def test_a_prompt_begins_with_one_bos_here(engines, model, tokenizer):
    """Defect 14."""
    padded = engines.ours(model).generate([PROMPTS[0], f"<bos>{PROMPTS[0]}"] * 2, ROLLOUT).left_padded_prompt_tokens
    plain, doubled, *_ = [row[row != PAD].tolist() for row in padded]
    assert plain[:2] == [BOS, tokenizer.piece_to_id("<start_of_turn>")]
    assert len(plain) == tokenizers.count_prompt_tokens(tokenizer, PROMPTS[0])
    for tokens in (plain, doubled):
        assert tokens[0] == BOS and BOS not in tokens[1:]


# Not numbered: padding drawn as a token; where the cache is born; dropout and precision of LoRA


def test_padding_is_drawn_as_a_token_by_stock(engines, drawing_padding):
    """Not numbered: everything downstream tells tokens from padding by the id."""
    assert all(PAD in row for row in lists(engines.stock(drawing_padding).generate(PROMPTS, ROLLOUT)))


def test_padding_is_never_drawn_here(engines, drawing_padding, tokenizer, mesh):
    """Not numbered."""
    ours = engines.ours(drawing_padding)
    assert not any(PAD in row for row in lists(ours.generate(PROMPTS, ROLLOUT)))
    sampler = Sampler(drawing_padding, tokenizer, CACHE, mesh)
    with mesh:
        greedy = sampler(PROMPTS, LIMIT, max_prompt_length=MAX_PROMPT, eos_tokens=[STOP], temperature=1.0, top_p=None)
    assert not any(PAD in row for row in lists(greedy))


def test_the_cache_is_born_whole_on_one_device_by_stock_and_in_its_shards_here():
    """Not numbered."""
    program = """
import json, jax, jax.numpy as jnp
from flax import nnx
from tunix.generate import sampler
from gsm8k_grpo import models, rollout
from tunix.models.gemma import model as gemma
config = models.config(json.loads(input()))
model = nnx.eval_shape(lambda: gemma.Gemma(config, rngs=nnx.Rngs(0)))
tokenizer = type("", (), {name: lambda self: 0 for name in ("encode", "decode", "bos_id", "eos_id", "pad_id")})()
stock = sampler.Sampler(model, tokenizer, sampler.CacheConfig(16, 2, 2, 8))
(keys,) = {tuple(shard.data.shape for shard in layer[name].addressable_shards)
    for layer in stock.transformer.init_cache(4, 16, jnp.float32).values() for name in "kv"}
print(json.dumps(keys))
mesh = models.make_mesh(2, 2)
ours = rollout.Sampler(models.abstract(config, mesh, jnp.float32), tokenizer, 16, mesh)
prefill = ours.lower_prefill(4, 1, 8, rollout.Drawing(8, (1,), 0.0, None, 1.0))
program = prefill.compile()
shards = {tuple(sharding.shard_shape(leaf.shape)) for leaf, sharding in zip(
    jax.tree.leaves(prefill.out_info.cache), jax.tree.leaves(program.output_shardings.cache)) if len(leaf.shape) == 4}
print(json.dumps(sorted(shards)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(ARCHITECTURE),
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT / "scripts"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    stock, ours = map(json.loads, done.stdout.splitlines())
    assert stock == [[4, 16, 2, 8]]  # rows, positions, KV heads, sizes: all on one device
    # Rows, KV heads, then sizes and positions of keys, positions and sizes of values: on each of the four.
    assert ours == [[2, 1, 8, 16], [2, 1, 16, 8]]


def test_stock_misplaces_the_window_behind_padding_and_ours_does_not():
    """Not numbered. Gemma 2's local layers; that Gemma 3's are right as they are is shown in test_parity.py."""
    architecture = {**ARCHITECTURE, "sliding_window_tokens": 4}
    model = building.initialise(building.tunix_config(architecture), seed=0)
    weights = storage.weights_of(model)
    stock = gemma.Gemma(building.tunix_config(architecture), rngs=nnx.Rngs(0))
    nnx.update(stock, nnx.state(model))

    @nnx.jit
    def logits(model, tokens):
        valid = tokens != PAD
        return model(tokens, common.build_positions_from_mask(valid), None, common.make_causal_attn_mask(valid))[0]

    tokens = np.arange(200, 212)[None]
    padded = np.concatenate([np.full((1, 5), PAD), tokens], axis=1)
    assert weights.keys() == storage.weights_of(stock).keys()
    np.testing.assert_allclose(logits(stock, tokens), logits(model, tokens), atol=1e-6)
    assert np.abs(logits(stock, padded)[:, 5:] - logits(stock, tokens)).max() > 0.01
    np.testing.assert_allclose(logits(model, padded)[:, 5:], logits(model, tokens), atol=1e-5)


def test_stocks_qwen_takes_no_quantised_weights_and_ours_does(mesh):
    """Not numbered."""
    model = building.initialise(building.tunix_config(FAMILIES["qwen2"]), seed=0)
    lora = {"rank": 4, "alpha": 4, "dropout": 0, "base_weights": "int8", "target_modules": ["q_proj"]}
    stock = qwen2.Qwen2(building.tunix_config(FAMILIES["qwen2"]), rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="astype requires ndarray"):
        with_lora(stock, lora, 0, mesh)(**stock.get_model_input())
    logits, _ = with_lora(model, lora, 0, mesh)(**model.get_model_input())
    assert np.isfinite(logits).all()


LORA = {"rank": 4, "alpha": 8, "dropout": 0.5, "base_weights": None, "target_modules": ["attn_vec_einsum", "down_proj"]}


@nnx.jit
def forward(model):
    tokens, positions = jnp.arange(100, 108).reshape(1, 8), jnp.arange(8).reshape(1, 8)
    return model(tokens, positions, None, jnp.tril(jnp.ones((1, 8, 8), bool)))[0]


def filled(adapted):
    """With adapters that are not zero, so that what drops out of their inputs shows."""
    adapters = nnx.state(adapted, nnx.LoRAParam)
    nnx.update(adapted, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.3), adapters))
    return adapted


@pytest.fixture(scope="module")
def bfloat16(mesh):
    copy = initialised(mesh, num_layers=1)
    nnx.update(copy, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(copy)))
    return copy


@pytest.fixture(scope="module")
def stock_lora(bfloat16):
    provider = qwix.LoraProvider(module_path=".*attn_vec_einsum|.*down_proj", rank=4, alpha=8.0, dropout=0.5)

    @nnx.jit  # eagerly it takes longer
    def adapt(model):
        return qwix.apply_lora_to_model(model, provider, **model.get_model_input(), rngs=nnx.Rngs(0))

    return filled(adapt(bfloat16))


@pytest.fixture(scope="module")
def our_lora(bfloat16, mesh):
    return filled(with_lora(bfloat16, LORA, 0, mesh))


def test_dropout_is_an_error_or_in_every_pass_of_stock(stock_lora):
    """Not numbered: sampling, log-probs and evaluation included."""
    with pytest.raises(ValueError, match="Cannot find rngs in the current module"):
        forward(stock_lora)
    with_rngs = nnx.clone(stock_lora)
    with_rngs.set_attributes(qwix_rngs=nnx.Rngs(dropout=0))
    assert not np.array_equal(forward(with_rngs), forward(with_rngs))


def test_dropout_needs_to_be_asked_for_here(our_lora):
    """Not numbered."""
    plain = np.asarray(forward(our_lora))
    np.testing.assert_array_equal(forward(our_lora), plain)
    with_rngs = nnx.clone(our_lora)

    def dropped(seed):
        with_rngs.set_attributes(qwix_rngs=nnx.Rngs(dropout=seed))
        return np.asarray(forward(with_rngs))

    assert not np.array_equal(dropped(0), plain)
    assert not np.array_equal(dropped(0), dropped(1))
    np.testing.assert_array_equal(dropped(0), dropped(0))


def test_adapters_are_as_coarse_as_their_base_in_stock_and_float32_here(stock_lora, our_lora):
    """Not numbered: steps of 3e-6 vanish in bfloat16."""

    def dtypes(model, kind):
        return {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(model, kind))}

    assert dtypes(stock_lora, nnx.LoRAParam) == {"bfloat16"}
    assert dtypes(our_lora, nnx.LoRAParam) == {"float32"}
    assert dtypes(our_lora, nnx.Not(nnx.LoRAParam)) == {"bfloat16"}
    assert forward(our_lora).dtype == jnp.bfloat16


# 3, 6, 8 to 11: with a learner

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
ROWS = [
    {"id": f"row-{index}", "prompt": build_prompt("", f"{name} has {index} cups."), "answer": "7", "prompt_tokens": 30}
    for index, name in enumerate(["Ana", "Ben", "Cleo", "Dan"] * 5)
]
SMALL = {
    "max_steps": 5,
    "schedule_steps": 5,
    "checkpoint_interval_steps": 1,
    "prompts_per_step": 4,
    "micro_batch_prompts": 2,
    "num_generations": 2,
    "advantage_estimator": "drgrpo",
    "max_completion_tokens": 64,
    # The reward that differs between these completions, which end at about every second token: their length.
    "truncated_completions": "penalise",
    "overlong_buffer_tokens": 64,
    "temperature": 0.7,
    "lora": {"rank": 4, "alpha": 4, "target_modules": ["q_einsum", "down_proj"]},
}


def chosen(**changes):
    return effective_settings("tiny", {"training": {**SMALL, **changes}})["training"]


@pytest.fixture(scope="module")
def make_learner(tokenizer, mesh):
    base = leaning(leaning(initialised(mesh, num_layers=1), STOP, 1.4), EOS, 1.3)
    adapted = with_lora(base, chosen()["lora"], 0, mesh)

    def make(folder, block):
        folder.mkdir(exist_ok=True)
        run = Run(folder, block["num_iterations"])
        run.resume(checkpoint_steps(block["max_steps"], block["checkpoint_interval_steps"]))
        policy = nnx.clone(adapted)  # fresh adapters each time
        reference = base if block["beta"] else None
        cluster = tunix_setup.make_rl_cluster(
            policy, reference, tokenizer, mesh, block, MAX_PROMPT, (STOP, EOS), 0, run
        )
        return Learner(cluster, block, TAGS, ROWS, 0, (STOP, EOS)), run

    return make


@pytest.fixture(scope="module")
def resampling(make_learner, tmp_path_factory):
    """Samples the first steps with so many further draws for groups without signal; β is 0."""
    block = chosen(beta=0)
    learner, _ = make_learner(tmp_path_factory.mktemp("run"), block)

    def sampled(draws):
        for step in range(3):
            again = Learner(learner.rl_cluster, {**block, "dynamic_sampling_draws": draws}, TAGS, ROWS, 0, (STOP, EOS))
            again.rl_cluster.global_steps = step
            yield again.sample()

    return learner, sampled


def test_the_stop_token_is_in_the_loss_here(resampling):
    """Defect 3."""
    _, sampled = resampling
    batch = next(sampled(0))
    assert not any(sample["truncated"] for sample in batch.samples)
    names = ("completion_ids", "completion_mask", "loss_weights")
    rows = [
        row
        for example in batch.micro_batches
        for row in zip(*(np.asarray(getattr(example, name)) for name in names), strict=True)
    ]
    ends = [mask.sum() - 1 for _, mask, _ in rows]
    assert sorted(ends) == sorted(sample["tokens"] - 1 for sample in batch.samples)
    assert all(mask[end] and weights[end] > 0 for end, (_, mask, weights) in zip(ends, rows, strict=True))
    assert {ids[end] for end, (ids, _, _) in zip(ends, rows, strict=True)} == {STOP, EOS}


def test_short_completions_are_padded_to_a_quarter_of_the_limit_or_two_here(resampling):
    """Defect 11."""
    _, sampled = resampling
    examples = next(sampled(0)).micro_batches
    longest = [int(np.asarray(example.completion_mask).sum(axis=1).max()) for example in examples]
    assert max(longest) <= 32 and [padding.padded_length(tokens, 64, 4) for tokens in (5, 17)] == [16, 32]
    widths = [padding.padded_length(tokens, 64, 4) for tokens in longest]
    assert [example.completion_ids.shape for example in examples] == [(4, width) for width in widths]


@pytest.mark.parametrize("draws", [1, 6])
def test_groups_without_signal_are_replaced_here(resampling, draws):
    """Defect 6."""
    _, sampled = resampling
    replaced = 0

    def groups(batch):
        pairs = [batch.samples[start : start + 2] for start in range(0, 8, 2)]
        return [(pair, pair[0]["reward"] != pair[1]["reward"]) for pair in pairs]

    for before, after in zip(sampled(0), sampled(draws), strict=True):
        first, new = {pair[0]["id"] for pair, _ in groups(before)}, 0
        for (old, had_signal), (now, has_signal) in zip(groups(before), groups(after), strict=True):
            if now != old:
                assert has_signal and not had_signal
                assert now[0]["id"] == now[1]["id"] not in first
                new += 1
            assert has_signal or draws == 1
        assert after.figures["groups_replaced"] == new / 4
        assert after.figures["groups_without_signal"] == before.figures["groups_without_signal"]
        assert (after.figures["tokens"] > before.figures["tokens"]) == (before.figures["groups_without_signal"] > 0)
        advantages = np.concatenate([example.advantages for example in after.micro_batches])
        assert (advantages != 0).tolist() == [signal for _, signal in groups(after) for _ in range(2)]
        replaced += new
    assert replaced


def test_no_beta_pays_for_no_reference_here(resampling):
    """Defect 6."""
    learner, _ = resampling
    batch = learner.sample()
    assert not learner.rl_cluster.inference_worker._models
    assert all(example.ref_per_token_logps is None for example in batch.micro_batches)
    assert batch.figures["reference_seconds"] == 0.0
    assert learner.update(batch)["kl"] is None


TWICE = {"num_iterations": 2, "beta": 0.04, "kl_estimator": "k3"}


def state(learner):
    """Adapters and optimizer state, bit for bit."""
    trainer = learner.rl_cluster.actor_trainer
    kept = nnx.state(trainer.model, nnx.LoRAParam), nnx.state(trainer.optimizer, nnx.optimizer.OptState)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in jax.tree.leaves_with_path(kept)}


def steps(run):
    """The rows of a run, without what a clock said."""
    rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(make_learner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    learner, run = make_learner(folder, chosen(**TWICE))
    fresh = state(learner)
    train_to_end(learner, chosen(**TWICE), run)
    assert state(learner) != fresh
    return run, state(learner)


@pytest.fixture(scope="module")
def interrupted(make_learner, tmp_path_factory):
    """A run that ended after step 2, and a learner that goes on from there."""
    folder, block = tmp_path_factory.mktemp("interrupted"), chosen(**TWICE, max_steps=2)
    learner, run = make_learner(folder, block)
    train_to_end(learner, block, run)
    return make_learner(folder, chosen(**TWICE))


def test_all_checkpoints_are_kept_here(uninterrupted):
    """Defect 8."""
    run, _ = uninterrupted
    assert sorted(int(path.name) for path in (run.checkpoints / "actor").iterdir()) == [2, 4, 6, 8, 10]
    assert list(run.ledger()) == [1, 2, 3, 4, 5]


def test_the_last_checkpoint_knows_its_step_here(uninterrupted, make_learner):
    """Defect 9."""
    run, final = uninterrupted
    before = run.metrics_file.read_bytes(), run.ledger()
    learner, again = make_learner(run.folder, chosen(**TWICE))
    assert learner.steps_done == 5
    assert state(learner) == final
    train_to_end(learner, chosen(**TWICE), again)
    assert learner.steps_done == 5
    assert state(learner) == final
    assert (run.metrics_file.read_bytes(), run.ledger()) == before


def test_unseen_prompts_are_skipped_on_resumption_by_stock(interrupted):
    """Defect 10 (google/tunix#2290): where stock goes on in the data after 2 steps of 2 micro-batches, with μ = 2."""
    learner, _ = interrupted
    seen = []

    def process(micro_batches, **_):
        seen.extend(prompt for batch in micro_batches for prompt in batch["prompts"])
        return []

    data = ({"prompts": np.array([f"micro-batch {index}"])} for index in range(20))
    with mock.patch.object(learner, "_process_accumulated_batches", process):
        learner._prepare_data(
            data,
            proceed_num_steps=1,
            sample_repeat=2,
            batch_repeat=2,
            service_target_batch_size=1,
            data_queue=mock.Mock(),
        )
    assert seen == ["micro-batch 8"] * 2  # the first unseen one is 4


def test_an_interrupted_run_ends_in_the_same_bits_here(uninterrupted, interrupted):
    """Defect 10."""
    whole, final = uninterrupted
    learner, run = interrupted
    assert learner.steps_done == 2 and state(learner) != final
    train_to_end(learner, chosen(**TWICE), run)
    assert steps(run) == steps(whole)
    assert [row["step"] for row in steps(run)] == [1, 2, 3, 4, 5]
    assert state(learner) == final


def test_stock_exports_neither_gemma_2_nor_qwen_2_5_nor_a_base_in_several_files(tmp_path):
    """Defect 12."""
    has = {
        name: hasattr(importlib.import_module(f"tunix.models.{name}.params"), "save_lora_merged_model_as_safetensors")
        for name in ("gemma", "gemma3", "qwen2", "qwen3")
    }
    assert has == {"gemma": False, "gemma3": True, "qwen2": False, "qwen3": True}
    for index in (1, 2):
        tensors = {f"tensor_{index}": np.zeros(3, np.float32)}
        safetensors.numpy.save_file(tensors, tmp_path / f"model-0000{index}-of-00002.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        safetensors_saver.save_lora_merged_model_as_safetensors(
            str(tmp_path), str(tmp_path / "merged"), nnx.Linear(2, 2, rngs=nnx.Rngs(0)), 1, 1.0, str
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_all_families_are_exported_in_any_number_of_files_here(name, mesh, tmp_path):
    """Defect 12. (What `transformers` computes with it: test_export.py.)"""
    architecture = FAMILIES[name]
    weights = storage.weights_of(building.initialise(building.tunix_config(architecture), seed=0))
    arrays = {path: np.asarray(leaf) for path, leaf in storage.leaves(weights).items()}
    factors = {
        tensor: (np.ones((1, part.shape[1]), np.float32), np.ones((part.shape[0], 1), np.float32))
        for entry in tensor_names.tensor_table(architecture)
        for tensor, part in zip(entry.names, entry.to_hf(arrays[entry.path]), strict=True)
        if "_proj.weight" in tensor
    }
    shapes = {path: array.shape for path, array in arrays.items()}
    arguments = (architecture, arrays, shapes.get, "float32", factors, 0.5)
    weight_writing.write_weights(tmp_path, *arguments, shard_bytes=20_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    (tmp_path / "config.json").write_text(config_json.transformers_config(architecture).to_json_string())
    found = storage.leaves(weight_reading.read_huggingface(tmp_path, architecture))
    changed = {path for path, array in arrays.items() if not np.array_equal(found[path], array)}
    adapted = {entry.path for entry in tensor_names.tensor_table(architecture) if set(entry.names) & set(factors)}
    assert changed == adapted
    for path in adapted:
        np.testing.assert_array_equal(found[path], arrays[path] + np.float32(0.5))
