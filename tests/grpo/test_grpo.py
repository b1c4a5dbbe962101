"""GRPO's formulas against the papers' equations in float64 (oracle.py): loss, gradient, figures, advantages.

Everything here is float32 on our side and float64 on the oracle's, from the same numbers. Agreement is asked to 10⁻⁵
of the loss and, for gradients, of their largest entry.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from tunix.rl import common, function_registry

import oracle
from gsm8k_grpo.generation import padding
from gsm8k_grpo.grpo import formulas, tunix_setup
from gsm8k_grpo.grpo.groups import Group
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.loss import LOSS
from gsm8k_grpo.models import log_probs
from gsm8k_grpo.models.mesh import make_mesh

AGGREGATIONS = ["sequence", "token", "constant"]
TUNIX_MODES = {
    "sequence": "sequence-mean-token-mean",
    "token": "token-mean",
    "constant": "sequence-mean-token-scale",
}
TOLERANCE = 1e-5


def assert_close(found, expected):
    """To the tolerance, relative to the largest number expected."""
    expected = np.asarray(expected, np.float64)
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected, rtol=0, atol=TOLERANCE * max(np.abs(expected).max(), 1e-6)
    )


# The oracle itself.


def random_completions(rng, lengths, vocabulary=4, stale=1.0):
    """Completions with random everything; the old policy and the reference differ from the policy."""
    made = []
    for n in lengths:
        logits, tokens = rng.normal(size=(n, vocabulary)), rng.integers(vocabulary, size=n)
        log_probs = oracle.log_probs(logits, tokens, 0.7)
        old, reference = (log_probs + rng.normal(scale=stale, size=n) for _ in range(2))
        made.append(oracle.Completion(logits, tokens, rng.normal(), old, reference))
    return made


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kl", ["k2", "k3"])
def test_the_oracles_gradient_is_that_of_finite_differences(aggregation, kl):
    completions = random_completions(np.random.default_rng(1), [3, 1, 4])
    objective = oracle.Objective(aggregation, 5, 0.1, 0.3, beta=0.2, kl=kl, temperature=0.7)
    found = oracle.loss(completions, objective)
    assert 0 < np.concatenate(found.clipped).mean() < 1
    step = 1e-6
    for i, completion in enumerate(completions):
        for cell in np.ndindex(completion.logits.shape):
            moved = np.zeros_like(completion.logits)
            moved[cell] = step
            values = [
                oracle.loss(
                    [*completions[:i], dataclasses.replace(completion, logits=there), *completions[i + 1 :]], objective
                ).value
                for there in (completion.logits + moved, completion.logits - moved)
            ]
            assert found.gradients[i][cell] == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-8)


def test_the_oracles_exact_kl_gradients_are_those_of_finite_differences():
    logits, reference = np.random.default_rng(1).normal(size=(2, 5))

    def divergence(one, other):
        log_one, log_other = oracle.log_softmax(one), oracle.log_softmax(other)
        return (np.exp(log_one) * (log_one - log_other)).sum()

    for v in range(5):
        moved = 1e-6 * np.eye(5)[v]
        reverse = divergence(logits + moved, reference) - divergence(logits - moved, reference)
        forward = divergence(reference, logits + moved) - divergence(reference, logits - moved)
        assert oracle.reverse_kl_gradient(logits, reference)[v] == pytest.approx(reverse / 2e-6, abs=1e-8)
        assert oracle.forward_kl_gradient(logits, reference)[v] == pytest.approx(forward / 2e-6, abs=1e-8)


# Advantages.

ESTIMATORS = ["grpo", "rloo", "drgrpo"]


@st.composite
def groups(draw):
    """Rewards of several groups of the same size; steps of a tenth, which floats do not represent."""
    generations = draw(st.integers(2, 8))
    group = st.lists(st.integers(-40, 80).map(lambda tenths: tenths / 10), min_size=generations, max_size=generations)
    return draw(st.lists(group, min_size=1, max_size=4))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(rewards=groups())
def test_advantages_are_the_papers(estimator, rewards):
    found = formulas.advantages(np.concatenate(rewards), len(rewards[0]), estimator)
    expected = np.array([oracle.advantages(group, estimator) for group in rewards])
    assert found.dtype == np.float32 and found.shape == (expected.size,)
    found = found.reshape(expected.shape).astype(np.float64)
    # 10⁻⁶ is added to deviations, of which the smallest here is 0.1 / √8.
    np.testing.assert_allclose(found, expected, rtol=4e-5, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-5)
    assert not found[[len(set(group)) == 1 for group in rewards]].any()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(reward=st.floats(-100, 100), generations=st.integers(2, 16))
def test_equal_rewards_have_advantages_of_exactly_zero(estimator, reward, generations):
    assert not formulas.advantages(np.full(generations, reward), generations, estimator).any()


def test_advantages_by_hand():
    rewards = np.array([1.0, 1.0, 1.0, 5.0, 0.1, 0.1, 0.1, 0.1])
    found = {name: formulas.advantages(rewards, 4, name)[:4].tolist() for name in ESTIMATORS}
    assert found["drgrpo"] == [-1, -1, -1, 3]
    # k = 4: k / (k - 1) of the former; 5 less the mean of three 1, and 1 less the mean of 1, 1 and 5.
    assert found["rloo"] == pytest.approx([-4 / 3, -4 / 3, -4 / 3, 4])
    # Sample deviation √((1 + 1 + 1 + 9) / 3) = 2.
    assert found["grpo"] == pytest.approx([-0.5, -0.5, -0.5, 1.5])
    assert not any(formulas.advantages(rewards, 4, name)[4:].any() for name in ESTIMATORS)
    with pytest.raises(ValueError, match="advantage estimator 'gae': expected grpo, rloo or drgrpo"):
        formulas.advantages(rewards, 4, "gae")


# The loss by token, its weights, and the gradient by the logits.

EPSILON, EPSILON_HIGH, TEMPERATURE, LIMIT = 0.2, 0.35, 0.7, 10
LENGTHS = [7, 1, 4, 0, 3, 6, 7]  # the fourth counts nowhere
ADVANTAGES = np.array([1.3, -0.8, -1.7, 2.0, 0.6, 0.0, -0.4], np.float32)
RATIOS = {
    "one update": None,
    "inside": [0.85, 0.93, 1.0, 1.07, 1.15],
    # 1.3 is between 1 + ε and 1 + ε_high, 0.7 between 1 − ε_high and 1 − ε.
    "far outside": [0.02, 0.4, 0.7, 1.0, 1.3, 1.6, 20.0],
}


@functools.partial(jax.jit, static_argnames="estimator")
def loss_of_logits(logits, tokens, weights, advantages, old, reference, beta, estimator):
    """((loss, (KL, clipped)), gradient) of `surrogate` under `weights`."""

    def weighted(logits):
        log_policy = jax.nn.log_softmax(logits / TEMPERATURE)
        logps = jnp.take_along_axis(log_policy, tokens[..., None], axis=-1)[..., 0]
        before = jax.lax.stop_gradient(logps) if old is None else old
        losses, kl, clipped = formulas.surrogate(
            logps, before, reference, advantages, EPSILON, EPSILON_HIGH, beta, estimator
        )
        return jnp.sum(weights * losses), (kl, clipped)

    return jax.value_and_grad(weighted, has_aux=True)(logits)


def on_cells(mask, ragged):
    """[B, T, …] with each row's values where the mask is true, 0 elsewhere."""
    dense = np.zeros((*mask.shape, *np.shape(ragged[0])[1:]))
    dense[mask] = np.concatenate(ragged)
    return dense


@pytest.mark.parametrize("ratios", RATIOS)
@pytest.mark.parametrize(("beta", "kl"), [(0.0, "k3"), (0.3, "k3"), (0.3, "k2")])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_surrogate_and_weights_are_the_papers_objective(aggregation, beta, kl, ratios):
    rng = np.random.default_rng(5)
    shape, vocabulary = (len(LENGTHS), max(LENGTHS)), 11
    mask = np.arange(shape[1]) < np.array(LENGTHS)[:, None]
    logits = rng.normal(scale=2, size=(*shape, vocabulary)).astype(np.float32)
    tokens = rng.integers(vocabulary, size=shape)
    logps = np.array([oracle.log_probs(*each, TEMPERATURE) for each in zip(logits, tokens, strict=True)])
    reference = (logps + rng.normal(scale=0.5, size=shape)).astype(np.float32) if beta else None
    old = None
    if RATIOS[ratios]:
        wanted = np.resize(RATIOS[ratios], logps.size).reshape(shape)
        old = (logps - np.log(wanted)).astype(np.float32)

    completions = [
        oracle.Completion(
            logits[i, :n],
            tokens[i, :n],
            float(ADVANTAGES[i]),
            None if old is None else old[i, :n].astype(np.float64),
            None if reference is None else reference[i, :n].astype(np.float64),
        )
        for i, n in enumerate(LENGTHS)
        if n
    ]
    objective = oracle.Objective(aggregation, LIMIT, EPSILON, EPSILON_HIGH, beta, kl, TEMPERATURE)
    expected = oracle.loss(completions, objective)
    weights = formulas.loss_weights(mask, aggregation, LIMIT)
    (loss, (kls, clipped)), gradient = loss_of_logits(logits, tokens, weights, ADVANTAGES, old, reference, beta, kl)

    assert loss == pytest.approx(expected.value, rel=TOLERANCE)
    assert_close(gradient, on_cells(mask, expected.gradients))
    assert not np.asarray(gradient)[~mask].any()
    assert_close(np.asarray(kls)[mask], np.concatenate(expected.kl))
    np.testing.assert_array_equal(np.asarray(clipped)[mask], np.concatenate(expected.clipped))
    if ratios == "far outside":  # of what counts, every ratio occurs with either sign
        signs = np.broadcast_to(np.sign(ADVANTAGES)[:, None], shape)
        seen = set(zip(wanted[mask].tolist(), signs[mask].tolist(), strict=True))
        assert seen >= {(ratio, sign) for ratio in RATIOS[ratios] for sign in (-1, 1)}
        assert clipped[mask].any()
    else:
        assert not clipped.any()


def test_the_ratio_is_clipped_where_the_papers_say():
    """DAPO's range is 1 − ε … 1 + ε_high; only tokens that their advantage drives further out lose their gradient."""
    ratio, advantage = np.meshgrid([0.5, 0.7, 0.9, 1.0, 1.3, 1.5], [2.0, -2.0])

    @functools.partial(jax.grad, has_aux=True)
    def objective(logps):
        losses, kl, clipped = formulas.surrogate(
            logps, jnp.zeros_like(logps), None, advantage.reshape(-1), EPSILON, EPSILON_HIGH, 0.0, "k3"
        )
        return -losses.sum(), (-losses, kl, clipped)

    slopes, (values, kl, clipped) = jax.jit(objective)(np.log(ratio.reshape(-1, 1), dtype=np.float32))
    expected = [[1.0, 1.4, 1.8, 2.0, 2.6, 2.7], [-1.6, -1.6, -1.8, -2.0, -2.6, -3.0]]
    np.testing.assert_allclose(values.reshape(2, 6), expected, rtol=1e-6)
    slope = [[1.0, 1.4, 1.8, 2.0, 2.6, 0.0], [0.0, 0.0, -1.8, -2.0, -2.6, -3.0]]
    np.testing.assert_allclose(slopes.reshape(2, 6), slope, rtol=1e-6)
    assert clipped.reshape(2, 6).tolist() == [[False] * 5 + [True], [True, True] + [False] * 4]
    assert not kl.any()


def test_weights_by_hand():
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    found = {name: formulas.loss_weights(mask, name, 8) for name in AGGREGATIONS}
    for name, first, second in [("sequence", 1 / 6, 1 / 2), ("token", 1 / 4, 1 / 4), ("constant", 1 / 16, 1 / 16)]:
        expected = np.array([[first] * 3 + [0], [second, 0, 0, 0], [0] * 4])
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
        assert not formulas.loss_weights(np.zeros((2, 3)), name, 8).any()
    with pytest.raises(ValueError, match="loss aggregation 'sum': expected sequence, token or constant"):
        formulas.loss_weights(mask, "sum", 8)


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any),
    masked=st.lists(st.integers(0, 12), max_size=6),
)
def test_rows_that_do_not_count_are_in_no_denominator(lengths, masked):
    """A masked row anywhere changes nothing; what is left sums to what its name says."""
    rows = np.arange(12) < np.array(lengths)[:, None]
    among = np.insert(rows, [min(place, len(rows)) for place in masked], False, axis=0)
    for aggregation in AGGREGATIONS:
        found = formulas.loss_weights(among, aggregation, 12)
        assert not found[~among].any()
        np.testing.assert_array_equal(found[among], formulas.loss_weights(rows, aggregation, 12)[rows])
        total = np.sum(lengths) / np.count_nonzero(lengths) / 12 if aggregation == "constant" else 1.0
        assert found.sum() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("aggregation", ["sequence", "constant"])
def test_the_mean_over_questions_is_the_mean_over_all_their_completions(aggregation):
    """Eq. 3 is an expectation over questions. (`token` is over all tokens of a mini-batch: long groups weigh more.)"""
    completions = random_completions(np.random.default_rng(2), [5, 1, 2, 3, 7, 1])
    objective = oracle.Objective(aggregation, LIMIT)
    questions = [oracle.loss(completions[i : i + 2], objective).value for i in (0, 2, 4)]
    assert oracle.loss(completions, objective).value == pytest.approx(np.mean(questions))
    weights = formulas.loss_weights(np.arange(LIMIT) < np.array([[5], [1], [2], [3], [7], [1]]), aggregation, LIMIT)
    expected = [oracle.weight(completions[i], completions[i - i % 2 : i - i % 2 + 2], objective) / 3 for i in range(6)]
    np.testing.assert_allclose(weights[:, 0], expected, rtol=1e-6)


# The whole loss, as Tunix's trainer calls it, on the micro-batches that the learner makes.

PAD, STOP, VOCABULARY, MAX_PROMPT, MAX_COMPLETION = 0, 1, 9, 5, 16


MESH = make_mesh(1, 1)


def on_mesh(array):
    """In float32, where the learner's micro-batches are (weights elsewhere would be moved, and compiled for, twice)."""
    return jax.device_put(np.asarray(array, np.float32), NamedSharding(MESH, PartitionSpec()))


class Frozen(nnx.Module):
    """What a table's rows pass through to be logits, where models have their embedding."""

    def __init__(self, rng):
        self.input_embedding = nnx.Param(on_mesh(rng.normal(size=VOCABULARY)))

    def decode(self, hidden):
        return hidden + self.input_embedding.get_value()


class Table(nnx.Module):
    """A policy whose logits lie in a table, by the token before and its position: the table's gradient is theirs."""

    config = SimpleNamespace(num_layers=0, num_kv_heads=1, head_dim=1)

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        shape = (VOCABULARY, MAX_PROMPT + MAX_COMPLETION, VOCABULARY)
        self.embedder = Frozen(rng)
        self.adapter = nnx.LoRAParam(on_mesh(rng.normal(size=shape)))

    def __call__(self, input_tokens, positions, cache, attention_mask, output_hidden_states=False):
        hidden = self.adapter.get_value()[input_tokens, positions]
        if output_hidden_states:
            self.sow(nnx.Intermediate, "all_hidden_states", hidden)
        return self.embedder.decode(hidden), cache


@dataclasses.dataclass(frozen=True)
class Case:
    """A mini-batch without padding: `prompts[i]` belongs to `completions[i]`."""

    prompts: list[list[int]]
    completions: list[np.ndarray]
    truncated: np.ndarray
    advantages: np.ndarray


GENERATIONS = 2


def case(seed=3, cut=()):
    """Three prompts of 1, 3 and 5 tokens with two completions each, very uneven; rows in `cut` end at the limit."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(2, VOCABULARY, size=n).tolist() for n in (1, 3, 5) for _ in range(GENERATIONS)]
    prompts[1], prompts[3], prompts[5] = prompts[0], prompts[2], prompts[4]
    completions = []
    for row, length in enumerate([1, 2, 12, 9, 3, 11]):
        tokens = rng.integers(2, VOCABULARY, size=MAX_COMPLETION if row in cut else length)
        if row not in cut:
            tokens[-1] = STOP
        completions.append(tokens.astype(np.int32))
    advantages = np.array([1.1, -0.7, 0.4, -1.2, -0.9, 0.5], np.float32)
    return Case(prompts, completions, np.isin(np.arange(6), cut), advantages)


def examples(case, micro_batch_prompts, aggregation, truncated_completions="keep"):
    """The micro-batches that the learner makes of a mini-batch."""
    learner = object.__new__(Learner)
    learner._settings = {
        "num_generations": GENERATIONS,
        "micro_batch_prompts": micro_batch_prompts,
        "max_completion_tokens": MAX_COMPLETION,
        "truncated_completions": truncated_completions,
        "loss_aggregation": aggregation,
        "lora": {"dropout": 0},
    }
    learner._seed, learner._mesh, learner._packs = 0, MESH, True
    learner.rl_cluster = SimpleNamespace(rollout=SimpleNamespace(pad_id=lambda: PAD))
    grouped = []
    for start in range(0, len(case.completions), GENERATIONS):
        rows, prompt = slice(start, start + GENERATIONS), case.prompts[start]
        padded = np.array([PAD] * (MAX_PROMPT - len(prompt)) + prompt)
        grouped.append(Group({}, padded, [], case.completions[rows], case.truncated[rows], {}))
    return learner._examples(grouped, case.advantages, step=0)


def with_log_probs(example, **models_by_field):
    """With the log-probs of other models, as Tunix's cluster computes them: a prompt for each completion."""
    found, rows = {}, len(example.completion_ids)
    prompts = jnp.repeat(example.prompt_ids, rows // len(example.prompt_ids), axis=0)
    for field, model in models_by_field.items():
        found[field] = common.compute_per_token_logps(
            *nnx.split(model), prompts, example.completion_ids, PAD, STOP, temperature=TEMPERATURE
        )
    return example.replace(**found)


@functools.cache
def differentiated(beta, kl):
    """Loss, figures and gradient as in `PeftTrainer._train_step`, with `GRPOLearner`'s wrapper around the loss."""
    config = tunix_setup.GrpoConfig(
        policy_loss_fn=LOSS, beta=beta, kl_loss_mode=kl, epsilon=EPSILON, epsilon_high=EPSILON_HIGH
    )
    config.temperature = TEMPERATURE
    registered = function_registry.get_policy_loss_fn(config.policy_loss_fn)

    def loss_fn(model, train_example):
        return registered(model, train_example, algo_config=config, pad_id=PAD, eos_id=STOP)

    return nnx.jit(nnx.value_and_grad(loss_fn, argnums=nnx.DiffState(0, nnx.LoRAParam), has_aux=True))


def averaged(model, micro_batches, beta, kl):
    """(loss, figures, gradient of the table): means over micro-batches, as Tunix and optax.MultiSteps take them."""
    results = []
    for example in micro_batches:
        (loss, figures), gradients = differentiated(beta, kl)(model, train_example=example)
        (gradient,) = jax.tree.leaves(gradients)  # of the adapter only
        results.append((loss, figures, gradient))
    return jax.tree.map(lambda *values: np.mean(np.array(values, np.float64), axis=0), *results)


def indices(case, row):
    """Where in the table the logits of each token of a completion lie: the token before, and its position."""
    text = [*case.prompts[row], *case.completions[row].tolist()]
    start = len(case.prompts[row]) - 1
    return text[start:-1], list(range(start, len(text) - 1))


def logits_of(model, case, row):
    table = np.asarray(model.adapter.get_value(), np.float64) + np.asarray(
        model.embedder.input_embedding.get_value(), np.float64
    )
    return table[indices(case, row)]


def expected_of(case, policy, aggregation, beta=0.0, kl="k3", old=None, reference=None, left_out=()):
    """The oracle's (loss, figures, gradient of the table). Rows in `left_out` are in the figures only."""

    def log_probs(model, row):
        if model is None:
            return None
        return oracle.log_probs(logits_of(model, case, row), case.completions[row], TEMPERATURE)

    rows = range(len(case.completions))
    completions = [
        oracle.Completion(
            logits_of(policy, case, row),
            case.completions[row],
            float(case.advantages[row]),
            log_probs(old, row),
            log_probs(reference, row),
        )
        for row in rows
    ]
    objective = oracle.Objective(aggregation, MAX_COMPLETION, EPSILON, EPSILON_HIGH, beta, kl, TEMPERATURE)
    counted = [row for row in rows if row not in left_out]
    result = oracle.loss([completions[row] for row in counted], objective)
    gradient = np.zeros(policy.adapter.get_value().shape)
    for row, of_row in zip(counted, result.gradients, strict=True):
        np.add.at(gradient, indices(case, row), of_row)
    everything = oracle.loss(completions, objective)
    figures = {
        "kl": np.concatenate(everything.kl).mean(),
        "entropy": np.concatenate(everything.entropy).mean(),
        "pg_clipfrac": np.concatenate(everything.clipped).mean(),
    }
    return result.value, figures, gradient


def assert_agree(found, expected):
    """(loss, figures, gradient) against another."""
    assert found[0] == pytest.approx(expected[0], rel=TOLERANCE)
    assert found[1] == pytest.approx(expected[1], rel=TOLERANCE)
    assert_close(found[2], expected[2])


def moved(model, scale, seed=9):
    """Another policy, not far away."""
    other, rng = nnx.clone(model), np.random.default_rng(seed)
    table = np.asarray(other.adapter.get_value())
    other.adapter.set_value(on_mesh(table + rng.normal(scale=scale, size=table.shape)))
    return other


@pytest.fixture(scope="module")
def policy():
    return Table(0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("beta", "kl", "passes", "micro_batch_prompts"),
    [(0.0, "k3", 1, 3), (0.0, "k3", 1, 1), (0.3, "k3", 1, 1), (0.3, "k3", 2, 3), (0.3, "k3", 2, 1), (0.3, "k2", 2, 1)],
)
def test_the_loss_as_tunix_calls_it(policy, beta, kl, passes, micro_batch_prompts, aggregation):
    """Left-padded prompts, right-padded completions; however the mini-batch is split."""
    made = case()
    others = {}
    if beta:
        others["reference"] = moved(policy, 0.5, seed=1)
    if passes > 1:
        others["old"] = moved(policy, 0.3, seed=2)
    micro_batches = [
        with_log_probs(each, **{f"{name[:3]}_per_token_logps": model for name, model in others.items()})
        for each in examples(made, micro_batch_prompts, aggregation)
    ]
    assert len(micro_batches) == 3 // micro_batch_prompts
    expected = expected_of(made, policy, aggregation, beta, kl, **others)
    assert_agree(averaged(policy, micro_batches, beta, kl), expected)
    assert (expected[1]["pg_clipfrac"] > 0.1) == (passes > 1)
    assert (expected[1]["kl"] > 0.01) == (beta > 0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_truncated_completions_that_are_masked_are_as_if_never_drawn(policy, aggregation):
    """In the loss; the figures are of all tokens. One micro-batch has nothing left that counts."""
    cut = (1, 2, 3)
    made = case(cut=cut)
    masked = averaged(policy, examples(made, 1, aggregation, "mask"), 0.0, "k3")
    assert_agree(masked, expected_of(made, policy, aggregation, left_out=cut))
    kept = averaged(policy, examples(made, 1, aggregation, "keep"), 0.0, "k3")
    assert_agree(kept, expected_of(made, policy, aggregation))
    assert abs(kept[0] - masked[0]) > 0.01


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_normalising_by_micro_batch_as_stock_tunix_does_is_another_loss(policy, aggregation):
    """What the tests above would find if ours did so: it is far outside of their tolerance."""
    cut = (1, 2)
    made = case(cut=cut)
    whole = expected_of(made, policy, aggregation, left_out=cut)
    losses = jnp.asarray(-made.advantages)[:, None] * jnp.ones((1, MAX_COMPLETION))  # of one update, without penalty
    mask = np.arange(MAX_COMPLETION) < np.array([len(row) for row in made.completions])[:, None]
    mask[list(cut)] = False

    def stock(size):
        of_parts = [
            common.aggregate_loss(losses[start : start + size], mask[start : start + size], TUNIX_MODES[aggregation])
            for start in range(0, 6, size)
        ]
        return float(np.mean(of_parts))

    assert stock(6) == pytest.approx(whole[0], rel=TOLERANCE)
    assert abs(stock(2) - whole[0]) > 0.05 * abs(whole[0])
    ours = averaged(policy, examples(made, 1, aggregation, "mask"), 0.0, "k3")
    assert ours[0] == pytest.approx(whole[0], rel=TOLERANCE)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_first_of_several_passes_is_the_plain_policy_gradient(policy, aggregation):
    """The old policy is still the policy: ratios are 1, nothing is clipped, and the gradient is REINFORCE's."""
    made = case()
    micro_batches = [with_log_probs(each, old_per_token_logps=policy) for each in examples(made, 3, aggregation)]
    loss, figures, gradient = averaged(policy, micro_batches, 0.0, "k3")
    completions = [
        oracle.Completion(logits_of(policy, made, row), tokens, float(made.advantages[row]))
        for row, tokens in enumerate(made.completions)
    ]
    objective = oracle.Objective(aggregation, MAX_COMPLETION, temperature=TEMPERATURE)
    plain = np.zeros_like(gradient)
    for row, of_row in enumerate(oracle.policy_gradient(completions, objective)):
        np.add.at(plain, indices(made, row), of_row)
    assert figures["pg_clipfrac"] == 0
    assert_close(gradient, plain)
    weighted = [oracle.weight(each, completions, objective) * each.advantage * len(each.tokens) for each in completions]
    assert loss == pytest.approx(-np.sum(weighted), rel=TOLERANCE)
    assert_agree((loss, figures, gradient), averaged(policy, examples(made, 3, aggregation), 0.0, "k3"))


# The KL penalty: what its estimators' gradients are in expectation, over a vocabulary small enough to enumerate.


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


@functools.partial(jax.jit, static_argnames="estimator")
def expected_gradient(logits, reference, estimator):
    """Of the KL term as a loss, each token weighed with its probability: that is drawing from the policy, exactly."""

    def expected(logits):
        logps, reference_logps = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
        if estimator == "k1":
            estimates = common.compute_kl_divergence(logps, reference_logps, "kl")
        else:  # the whole loss with β = 1, without advantages
            column = logps[:, None]
            nothing = jnp.zeros(len(logps))
            losses, _, _ = formulas.surrogate(
                column, column, reference_logps[:, None], nothing, 0.2, 0.2, 1.0, estimator
            )
            estimates = losses[:, 0]
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(logps)) * estimates)

    return jax.grad(expected)(logits)


@pytest.mark.parametrize("seed", range(5))
def test_the_penaltys_expected_gradient_is_that_of_a_divergence(seed):
    logits, reference = np.random.default_rng(seed).normal(scale=0.7, size=(2, 5)).astype(np.float32)
    found = {name: np.asarray(expected_gradient(logits, reference, name), np.float64) for name in ("k1", "k2", "k3")}
    exact = oracle.reverse_kl_gradient(logits, reference)
    assert np.linalg.norm(exact) > 0.05
    np.testing.assert_allclose(found["k2"], exact, atol=1e-6)
    np.testing.assert_allclose(found["k3"], oracle.forward_kl_gradient(logits, reference), atol=1e-6)
    assert cosine(found["k3"], exact) > 0.8
    np.testing.assert_allclose(found["k1"], 0, atol=1e-6)  # Tunix's default


def test_an_unknown_kl_estimator_is_refused():
    with pytest.raises(ValueError, match="KL estimator 'k1': expected k2 or k3"):
        formulas.kl_per_token(jnp.zeros(1), jnp.zeros(1), "k1")


@given(st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6))
def test_entropy_is_that_of_the_distribution(logits):
    exact = oracle.log_softmax(np.array(logits))
    found = np.array(logits, np.float32)
    entropy = float(jax.jit(log_probs.entropies)(found, jax.nn.logsumexp(found)))
    assert entropy == pytest.approx(-(np.exp(exact) * exact).sum(), abs=1e-5)


# Lengths.


@given(st.data())
def test_overlong_punishment_is_eq_13_of_dapo(data):
    maximum = data.draw(st.integers(1, 4096))
    cache = data.draw(st.integers(1, maximum))
    drawn = data.draw(st.lists(st.integers(1, 5000), max_size=8))
    edges = [maximum - cache - 1, maximum - cache, maximum - cache + 1, maximum - 1, maximum, maximum + 1]
    lengths = np.array([length for length in edges if length >= 0] + drawn)
    expected = [oracle.overlong_punishment(length, maximum, cache) for length in lengths.tolist()]
    np.testing.assert_allclose(formulas.overlong_penalties(lengths, maximum, cache), expected, rtol=0, atol=1e-12)


def test_overlong_punishment_by_hand():
    """DAPO's own numbers: 20,480 tokens of which the last 4,096 are punished."""
    found = formulas.overlong_penalties(np.array([1, 16384, 16385, 18432, 20479, 20480, 20481]), 20480, 4096)
    np.testing.assert_allclose(found, [0, 0, -1 / 4096, -0.5, -4095 / 4096, -1, -1])


@given(limit=st.integers(1, 300))
def test_padded_lengths_are_long_enough_and_at_most_four(limit):
    found = [padding.padded_length(longest, limit, 4) for longest in range(1, limit + 1)]
    assert all(longest <= length <= limit for longest, length in enumerate(found, start=1))
    assert found == sorted(found) and len(set(found)) <= 4 and found[-1] == limit
    assert found[0] == -(-limit // 4)
