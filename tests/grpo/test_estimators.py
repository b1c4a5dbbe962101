"""The variants of GRPO in numpy: advantages, loss weights and overlong penalties against the papers' equations."""

import importlib.util
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunix.rl import function_registry

import oracle
from gsm8k_grpo.common import estimators
from gsm8k_grpo.common.estimators import ADVANTAGE_ESTIMATORS, KL_ESTIMATORS, LOSS_AGGREGATIONS
from gsm8k_grpo.config import blocks_training
from gsm8k_grpo.grpo import health


@st.composite
def groups(draw):
    """Rewards of several groups of one size, in tenths, which floats do not represent exactly."""
    generations = draw(st.integers(2, 8))
    group = st.lists(st.integers(-40, 80).map(lambda tenths: tenths / 10), min_size=generations, max_size=generations)
    return draw(st.lists(group, min_size=1, max_size=4))


@pytest.mark.parametrize("estimator", ADVANTAGE_ESTIMATORS)
@given(rewards=groups())
def test_advantages_are_the_papers(estimator, rewards):
    found = estimators.advantages(np.concatenate(rewards), len(rewards[0]), estimator)
    expected = np.array([oracle.advantages(group, estimator) for group in rewards])
    assert found.dtype == np.float32 and found.shape == (expected.size,)
    found = found.reshape(expected.shape).astype(np.float64)
    # 10⁻⁶ is added to deviations, the smallest of which is 0.1 / √8 here.
    np.testing.assert_allclose(found, expected, rtol=4e-5, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-5)
    assert not found[[len(set(group)) == 1 for group in rewards]].any()


@pytest.mark.parametrize("estimator", ADVANTAGE_ESTIMATORS)
@given(reward=st.floats(-100, 100), generations=st.integers(2, 16))
def test_equal_rewards_have_advantages_of_exactly_zero(estimator, reward, generations):
    assert not estimators.advantages(np.full(generations, reward), generations, estimator).any()


def test_advantages_by_hand():
    rewards = np.array([1.0, 1.0, 1.0, 5.0, 0.1, 0.1, 0.1, 0.1])
    found = {name: estimators.advantages(rewards, 4, name) for name in ADVANTAGE_ESTIMATORS}
    assert found["drgrpo"][:4].tolist() == [-1, -1, -1, 3]
    # G / (G − 1) times the former: 5 less the mean of three 1, and 1 less the mean of 1, 1 and 5.
    assert found["rloo"][:4].tolist() == pytest.approx([-4 / 3, -4 / 3, -4 / 3, 4])
    # The sample deviation is √((1 + 1 + 1 + 9) / 3) = 2.
    assert found["grpo"][:4].tolist() == pytest.approx([-0.5, -0.5, -0.5, 1.5])
    assert not any(advantages[4:].any() for advantages in found.values())


def test_an_estimator_is_added_by_registering_its_function(monkeypatch):
    """The steps of "Add an advantage estimator" in CONTRIBUTING.md: nothing but the registry changes."""

    def centred_on_median(rewards):
        return rewards - np.median(rewards, axis=1, keepdims=True)

    monkeypatch.setitem(ADVANTAGE_ESTIMATORS, "mine", centred_on_median)
    found = estimators.advantages(np.array([0.0, 1.0, 5.0, 2.0, 2.0, 2.0]), 3, "mine")
    assert found.tolist() == [-1, 0, 4, 0, 0, 0] and found.dtype == np.float32
    # The settings of a process in which the registry has it from the beginning.
    spec = importlib.util.spec_from_file_location("fresh_blocks_training", blocks_training.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.Training(advantage_estimator="mine").advantage_estimator == "mine"
    with pytest.raises(ValueError, match=r"'grpo', .* or 'mine'"):
        fresh.Training(advantage_estimator="other")


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("advantage_estimator", ADVANTAGE_ESTIMATORS),
        ("loss_aggregation", LOSS_AGGREGATIONS),
        ("kl_estimator", KL_ESTIMATORS),
    ],
)
def test_settings_accept_the_registered_names_and_no_others(key, registry):
    assert typing.get_args(blocks_training.Training.model_fields[key].annotation) == tuple(registry)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimators.advantages(np.ones(4), 2, "gae"), "advantage estimator 'gae': .* grpo, rloo, drgrpo"),
        (lambda: estimators.loss_weights(np.ones((2, 3)), "sum", 8), "aggregation 'sum': .* sequence, token, constant"),
        (lambda: estimators.kl_per_token(np.zeros(1), "k1"), "KL estimator 'k1': expected one of k2, k3"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_groups_of_two_lose_their_gap_in_stock_tunix_and_keep_it_here_or_are_warned_of():
    """Defect 13: a gap of 0.001 counts like one of 3."""
    rewards = np.array([0.0, 0.001, 0.0, 3.0])
    stock = function_registry.get_advantage_estimator("grpo")(rewards=rewards, num_generations=2)
    np.testing.assert_allclose(stock, [-0.707, 0.707, -0.707, 0.707], atol=2e-3)
    (warning,) = health.settings_warnings({"method": "grpo", "num_generations": 2, "advantage_estimator": "grpo"})
    assert warning.startswith("training.advantage_estimator: with num_generations 2, grpo turns any gap of rewards")
    assert health.settings_warnings({"method": "grpo", "num_generations": 3, "advantage_estimator": "grpo"}) == []
    for estimator, share in (("drgrpo", 0.5), ("rloo", 1.0)):
        assert (
            health.settings_warnings({"method": "grpo", "num_generations": 2, "advantage_estimator": estimator}) == []
        )
        found = estimators.advantages(rewards, 2, estimator)
        np.testing.assert_allclose(found, share * np.array([-0.001, 0.001, -3.0, 3.0]), rtol=1e-5)


def test_loss_weights_by_hand():
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    for name, first, second in [("sequence", 1 / 6, 1 / 2), ("token", 1 / 4, 1 / 4), ("constant", 1 / 16, 1 / 16)]:
        expected = np.array([[first] * 3 + [0], [second, 0, 0, 0], [0] * 4])
        np.testing.assert_allclose(estimators.loss_weights(mask, name, 8), expected, rtol=1e-6)
        assert not estimators.loss_weights(np.zeros((2, 3)), name, 8).any()


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any),
    masked=st.lists(st.integers(0, 12), max_size=6),
)
def test_rows_that_do_not_count_are_in_no_denominator(lengths, masked):
    """A masked row anywhere changes no other row's weights, and the weights sum to what the name says."""
    rows = np.arange(12) < np.array(lengths)[:, None]
    with_masked = np.insert(rows, [min(index, len(rows)) for index in masked], False, axis=0)
    for aggregation in LOSS_AGGREGATIONS:
        found = estimators.loss_weights(with_masked, aggregation, 12)
        assert not found[~with_masked].any()
        np.testing.assert_array_equal(found[with_masked], estimators.loss_weights(rows, aggregation, 12)[rows])
        total = np.sum(lengths) / np.count_nonzero(lengths) / 12 if aggregation == "constant" else 1.0
        assert found.sum() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("aggregation", ["sequence", "constant"])
def test_the_mean_over_questions_is_the_mean_over_all_their_completions(aggregation):
    """Eq. 3 is an expectation over questions. (`token` is a mean over all tokens: there, long groups weigh more.)"""
    completions = oracle.random_completions(np.random.default_rng(2), [5, 1, 2, 3, 7, 1])
    objective = oracle.Objective(aggregation, max_tokens=10)
    questions = [oracle.loss(completions[i : i + 2], objective).value for i in (0, 2, 4)]
    assert oracle.loss(completions, objective).value == pytest.approx(np.mean(questions))
    weights = estimators.loss_weights(np.arange(10) < np.array([[5], [1], [2], [3], [7], [1]]), aggregation, 10)
    expected = [oracle.weight(completions[i], completions[i - i % 2 : i - i % 2 + 2], objective) / 3 for i in range(6)]
    np.testing.assert_allclose(weights[:, 0], expected, rtol=1e-6)


@given(st.data())
def test_the_overlong_penalty_is_eq_13_of_dapo(data):
    maximum = data.draw(st.integers(1, 4096))
    cache = data.draw(st.integers(1, maximum))
    drawn = data.draw(st.lists(st.integers(1, 5000), max_size=8))
    edges = [maximum - cache - 1, maximum - cache, maximum - cache + 1, maximum - 1, maximum, maximum + 1]
    lengths = np.array([length for length in edges if length >= 0] + drawn)
    expected = [oracle.overlong_punishment(length, maximum, cache) for length in lengths.tolist()]
    np.testing.assert_allclose(estimators.overlong_penalties(lengths, maximum, cache), expected, rtol=0, atol=1e-12)


def test_the_overlong_penalty_by_hand():
    """DAPO's own numbers: of 20,480 tokens, the last 4,096 are punished."""
    found = estimators.overlong_penalties(np.array([1, 16384, 16385, 18432, 20479, 20480, 20481]), 20480, 4096)
    np.testing.assert_allclose(found, [0, 0, -1 / 4096, -0.5, -4095 / 4096, -1, -1])
