"""Generation: greedy completions that do not hang on their batch, rollouts whose noise derives from seed and step."""

import jax
import numpy as np
import pytest
from flax import nnx
from generation import ARCHITECTURE, QUESTIONS, completed
from tunix.generate import tokenizer_adapter
from tunix.rl.rollout import base_rollout

from gsm8k_grpo import families, models, prompts, rollout, tokenizers

LIMIT = 12
STOPS = (107, 1)  # <end_of_turn>, <eos>


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(tokenizers.train([prompts.build("", question) for question in QUESTIONS] * 20, 400))
    return tokenizers.load(path)


@pytest.fixture(scope="module")
def model():
    return models.initialise(models.config(ARCHITECTURE), seed=0)


def test_greedy_completions_do_not_depend_on_the_batch(model, tokenizer):
    sampler = rollout.Sampler(model, tokenizer, 88, models.make_mesh(1, 1))
    asked = [prompts.build("", question) for question in QUESTIONS]
    assert tokenizers.stop_ids(tokenizer, families.GEMMA) == STOPS
    mesh = models.make_mesh(1, 1)
    together, alone = (completed(sampler, asked, size, 72, LIMIT, STOPS, mesh) for size in (4, 1))
    uneven = completed(sampler, asked[::-1], 3, 72, LIMIT, STOPS, mesh)
    assert sorted(together) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert together == alone
    assert [together[index, 0] for index in range(4)] == [uneven[3 - index, 0] for index in range(4)]
    assert all(each.tokens <= LIMIT and each.truncated == (each.tokens == LIMIT) for each in together.values())


def test_samples_differ_and_do_not_depend_on_the_batch(model, tokenizer):
    sampler = rollout.Sampler(model, tokenizer, 88, models.make_mesh(1, 1))
    asked = [prompts.build("", question) for question in QUESTIONS]
    decoding = rollout.Decoding(temperature=1.0, top_k=None, top_p=1.0, seed=5)
    arguments = (72, LIMIT, STOPS, models.make_mesh(1, 1))
    by_five, by_three = (completed(sampler, asked, size, *arguments, decoding, samples=3) for size in (5, 3))
    assert sorted(by_five) == [(index, sample) for index in range(4) for sample in range(3)]
    assert by_five == by_three
    assert len({each.text for each in by_five.values()}) > 6
    other = rollout.Decoding(temperature=1.0, top_k=None, top_p=1.0, seed=6)
    assert completed(sampler, asked, 5, *arguments, other, samples=3) != by_five


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
    return rollout.SeededRollout(model, adapted, models.make_mesh(1, 1), config, seed=7), config


def drawn(engine, step, calls=1):
    rolled, config = engine
    rolled.start_draw(step)
    asked = [prompts.build("", question) for question in QUESTIONS]
    return [[row.tolist() for row in rolled.generate(asked, config).tokens] for _ in range(calls)]


def test_noise_differs_by_step_and_call_and_row_but_not_between_runs(engine):
    first, second = drawn(engine, step=3, calls=2)
    assert first != second  # stock Tunix draws the same noise at every call
    assert first != drawn(engine, step=4)[0]
    assert drawn(engine, step=3, calls=2) == [first, second]
    rolled, config = engine
    rolled.start_draw(3)
    rows = rolled.generate([prompts.build("", QUESTIONS[0])] * 4, config).tokens
    assert len({tuple(row.tolist()) for row in rows}) > 1


def test_the_stop_token_stays_in_the_tokens_unless_the_limit_cut_them(engine):
    rolled, config = engine
    stopped = 0
    for step in range(40):
        rolled.start_draw(step)
        output = rolled.generate([prompts.build("", question) for question in QUESTIONS], config)
        for row, text in zip(output.tokens, output.text, strict=True):
            assert len(row) <= LIMIT
            assert len(row) == LIMIT or row[-1] in STOPS
            stopped += row[-1] in STOPS
            assert "<end_of_turn>" not in text
    assert stopped > 0


@pytest.fixture(params=["<end_of_turn>", "<eos>"])
def leaning(request, engine, model, tokenizer):
    """(The rollout of a model that draws this stop token at about every tenth place, the token)."""
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
    asked = [prompts.build("", question) for question in QUESTIONS]
    stop, ended = tokenizer.piece_to_id(token), 0
    for step in range(10):
        rolled.start_draw(step)
        output = rolled.generate(asked, config)
        for row, text in zip(map(np.ndarray.tolist, output.tokens), output.text, strict=True):
            assert row[-1] in STOPS or len(row) == LIMIT
            assert not set(STOPS) & set(row[:-1])
            assert text == tokenizer.decode(row[:-1] if row[-1] in STOPS else row) and token not in text
            ended += row[-1] == stop
    assert ended > 10


def test_each_stop_token_ends_a_completion_of_evaluation(leaning):
    rolled, token = leaning
    asked = [prompts.build("", question) for question in QUESTIONS]
    decoding = rollout.Decoding(temperature=1.0, top_k=None, top_p=1.0, seed=5)
    found = list(
        completed(rolled._sampler, asked, 4, 72, LIMIT, STOPS, models.make_mesh(1, 1), decoding, samples=5).values()
    )
    assert {each.truncated for each in found} == {True, False}
    for each in found:
        assert each.tokens == LIMIT or not each.truncated
        assert token not in each.text
    assert sum(not each.truncated for each in found) > 5


def test_log_probs_are_taken_at_the_rollouts_temperature(model, tokenizer):
    config = base_rollout.RolloutConfig(
        max_tokens_to_generate=LIMIT, max_prompt_length=8, kv_cache_size=24, temperature=0.5, eos_tokens=list(STOPS)
    )
    rolled = rollout.SeededRollout(
        model, tokenizer_adapter.TokenizerAdapter(tokenizer), models.make_mesh(1, 1), config, seed=0
    )
    prompt, completion = np.array([[2, 106, 150, 151]]), np.array([[152, 153, 107]])
    found = np.asarray(rolled.get_per_token_logps(jax.numpy.array(prompt), jax.numpy.array(completion)))
    tokens = jax.numpy.array(np.concatenate([prompt, completion], axis=1))
    mask = jax.numpy.tril(jax.numpy.ones((1, 7, 7), bool))
    logits = np.asarray(model(tokens, jax.numpy.arange(7)[None], None, mask)[0], np.float64)[0, 3:6] / 0.5
    expected = logits[range(3), completion[0]] - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
