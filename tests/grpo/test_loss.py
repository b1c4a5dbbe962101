"""The loss against the papers' equations in float64 (oracle.py): for each token, and as Tunix's trainer calls it.

Our side computes in float32 from the same numbers. Losses must agree to 10⁻⁵, gradients to 10⁻⁵ of their largest entry.
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
from gsm8k_grpo.common.estimators import LOSS_AGGREGATIONS, loss_weights
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.groups import Group
from gsm8k_grpo.grpo.loss import LOSS, surrogate
from gsm8k_grpo.grpo.micro_batches import make_micro_batches
from gsm8k_grpo.models import log_probs
from gsm8k_grpo.models.mesh import make_mesh

TUNIX_MODES = {
    "sequence": "sequence-mean-token-mean",
    "token": "token-mean",
    "constant": "sequence-mean-token-scale",
}
TOLERANCE = 1e-5


def assert_close(found, expected):
    """Asserts equality to the tolerance, relative to the largest number expected."""
    expected = np.asarray(expected, np.float64)
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected, rtol=0, atol=TOLERANCE * max(np.abs(expected).max(), 1e-6)
    )


# The loss of each token, and its gradient by the logits.

EPSILON, EPSILON_HIGH, TEMPERATURE, LIMIT = 0.2, 0.35, 0.7, 10
LENGTHS = [7, 1, 4, 0, 3, 6, 7]  # the fourth is masked
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
        losses, kl, clipped = surrogate(logps, before, reference, advantages, EPSILON, EPSILON_HIGH, beta, estimator)
        return jnp.sum(weights * losses), (kl, clipped)

    return jax.value_and_grad(weighted, has_aux=True)(logits)


def on_cells(mask, ragged):
    """[B, T, …]: the rows' values where the mask is true, 0 elsewhere."""
    dense = np.zeros((*mask.shape, *np.shape(ragged[0])[1:]))
    dense[mask] = np.concatenate(ragged)
    return dense


@pytest.mark.parametrize("ratios", RATIOS)
@pytest.mark.parametrize(("beta", "kl"), [(0.0, "k3"), (0.3, "k3"), (0.3, "k2")])
@pytest.mark.parametrize("aggregation", LOSS_AGGREGATIONS)
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
    weights = loss_weights(mask, aggregation, LIMIT)
    (loss, (kls, clipped)), gradient = loss_of_logits(logits, tokens, weights, ADVANTAGES, old, reference, beta, kl)

    assert loss == pytest.approx(expected.value, rel=TOLERANCE)
    assert_close(gradient, on_cells(mask, expected.gradients))
    assert not np.asarray(gradient)[~mask].any()
    assert_close(np.asarray(kls)[mask], np.concatenate(expected.kl))
    np.testing.assert_array_equal(np.asarray(clipped)[mask], np.concatenate(expected.clipped))
    if ratios == "far outside":  # every ratio occurs with an advantage of either sign
        signs = np.broadcast_to(np.sign(ADVANTAGES)[:, None], shape)
        seen = set(zip(wanted[mask].tolist(), signs[mask].tolist(), strict=True))
        assert seen >= {(ratio, sign) for ratio in RATIOS[ratios] for sign in (-1, 1)}
        assert clipped[mask].any()
    else:
        assert not clipped.any()


def test_the_ratio_is_clipped_where_the_papers_say():
    """DAPO's range is 1 − ε … 1 + ε_high. Only tokens whose advantage drives them further out lose their gradient."""
    ratio, advantage = np.meshgrid([0.5, 0.7, 0.9, 1.0, 1.3, 1.5], [2.0, -2.0])

    @functools.partial(jax.grad, has_aux=True)
    def objective(logps):
        losses, kl, clipped = surrogate(
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


# The whole loss, on the micro-batches that the learner makes.

PAD, STOP, VOCABULARY, MAX_PROMPT, MAX_COMPLETION = 0, 1, 9, 5, 16
MESH = make_mesh(1, 1)


def on_mesh(array):
    """In float32 on the micro-batches' mesh (elsewhere, the programs would be compiled twice)."""
    return jax.device_put(np.asarray(array, np.float32), NamedSharding(MESH, PartitionSpec()))


class Frozen(nnx.Module):
    """The step from a table's rows to logits, in the place of a model's embedding."""

    def __init__(self, rng):
        self.input_embedding = nnx.Param(on_mesh(rng.normal(size=VOCABULARY)))

    def decode(self, hidden):
        return hidden + self.input_embedding.get_value()


class Table(nnx.Module):
    """A policy with a table of logits, by the token before and its position: the table's gradient is the logits'."""

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


def micro_batches_of(case, size, aggregation, truncated_completions="keep", beta=0.0):
    """The micro-batches of `size` completions that the learner makes of a mini-batch."""
    training_settings = {
        "num_generations": GENERATIONS,
        "prompts_per_step": len(case.completions) // GENERATIONS,
        "micro_batch_completions": size,
        "beta": beta,
        "max_completion_tokens": MAX_COMPLETION,
        "truncated_completions": truncated_completions,
        "loss_aggregation": aggregation,
    }
    groups = []
    for start in range(0, len(case.completions), GENERATIONS):
        rows, prompt = slice(start, start + GENERATIONS), case.prompts[start]
        padded = np.array([PAD] * (MAX_PROMPT - len(prompt)) + prompt)
        groups.append(Group({}, padded, [], case.completions[rows], case.truncated[rows], {}, np.zeros(GENERATIONS)))
    return make_micro_batches(groups, case.advantages, training_settings, PAD, MESH, packs=True, dropout_key=None)


def test_the_rows_of_a_micro_batch_are_sharded_over_fsdp():
    """Otherwise each device would compute all rows. Places of tokens count over all rows, so they are not sharded."""
    for example in micro_batches_of(case(), 2, "token"):
        for name, array in vars(example).items():
            if array is not None:
                assert array.sharding.spec == PartitionSpec(None if name == "packed_places" else "fsdp"), name


def with_log_probs(example, **models_by_field):
    """The example with other models' log-probs, which Tunix computes from a prompt for each completion."""
    logps, rows = {}, len(example.completion_ids)
    prompts = jnp.repeat(example.prompt_ids, rows // len(example.prompt_ids), axis=0)
    for field, model in models_by_field.items():
        logps[field] = common.compute_per_token_logps(
            *nnx.split(model), prompts, example.completion_ids, PAD, STOP, temperature=TEMPERATURE
        )
    return example.replace(**logps)


@functools.cache
def differentiated(beta, kl):
    """Loss, metrics and gradient as in `PeftTrainer._train_step`, with `GRPOLearner`'s wrapper around the loss."""
    config = tunix_setup.GrpoConfig(
        policy_loss_fn=LOSS, beta=beta, kl_loss_mode=kl, epsilon=EPSILON, epsilon_high=EPSILON_HIGH
    )
    config.temperature = TEMPERATURE
    registered = function_registry.get_policy_loss_fn(config.policy_loss_fn)

    def loss_fn(model, train_example):
        return registered(model, train_example, algo_config=config, pad_id=PAD, eos_id=STOP)

    return nnx.jit(nnx.value_and_grad(loss_fn, argnums=nnx.DiffState(0, nnx.LoRAParam), has_aux=True))


def added_up(model, micro_batches, beta, kl):
    """(loss, metrics, gradient of the table): sums over micro-batches, as `PolicyUpdate` takes them."""
    results = []
    for example in micro_batches:
        (loss, metrics), gradients = differentiated(beta, kl)(model, train_example=example)
        (gradient,) = jax.tree.leaves(gradients)  # the adapter's
        results.append((loss, metrics, gradient))
    return jax.tree.map(lambda *values: np.sum(np.array(values, np.float64), axis=0), *results)


def indices(case, row):
    """Where the logits of a completion's tokens are in the table: (the tokens before, their positions)."""
    text = [*case.prompts[row], *case.completions[row].tolist()]
    start = len(case.prompts[row]) - 1
    return text[start:-1], list(range(start, len(text) - 1))


def logits_of(model, case, row):
    table = np.asarray(model.adapter.get_value(), np.float64) + np.asarray(
        model.embedder.input_embedding.get_value(), np.float64
    )
    return table[indices(case, row)]


def expected_of(case, policy, aggregation, beta=0.0, kl="k3", old=None, reference=None, left_out=(), unseen=()):
    """The oracle's (loss, metrics, gradient of the table).

    Rows in `left_out` are not in the loss, those in `unseen` not in the metrics.
    """

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
    everything = oracle.loss([completions[row] for row in rows if row not in unseen], objective)
    metrics = {
        "kl": np.concatenate(everything.kl).mean(),
        "entropy": np.concatenate(everything.entropy).mean(),
        "pg_clipfrac": np.concatenate(everything.clipped).mean(),
    }
    return result.value, metrics, gradient


def assert_agree(found, expected):
    """Asserts that two (loss, metrics, gradient) agree."""
    assert found[0] == pytest.approx(expected[0], rel=TOLERANCE)
    assert found[1] == pytest.approx(expected[1], rel=TOLERANCE)
    assert_close(found[2], expected[2])


def moved(model, scale, seed=9):
    """Another policy, close to the model."""
    other, rng = nnx.clone(model), np.random.default_rng(seed)
    table = np.asarray(other.adapter.get_value())
    other.adapter.set_value(on_mesh(table + rng.normal(scale=scale, size=table.shape)))
    return other


@pytest.fixture(scope="module")
def policy():
    return Table(0)


@pytest.mark.parametrize("aggregation", LOSS_AGGREGATIONS)
@pytest.mark.parametrize(
    ("beta", "kl", "passes", "size"),
    [
        (0.0, "k3", 1, 6),
        (0.0, "k3", 1, 1),
        (0.3, "k3", 2, 6),
        (0.3, "k3", 1, 1),
        pytest.param(0.3, "k3", 1, 2, marks=pytest.mark.slow),
        pytest.param(0.3, "k3", 2, 2, marks=pytest.mark.slow),
        pytest.param(0.3, "k2", 2, 2, marks=pytest.mark.slow),
    ],
)
def test_the_loss_as_tunix_calls_it(policy, beta, kl, passes, size, aggregation):
    """Prompts are padded on the left, completions on the right, and the split into micro-batches changes nothing."""
    mini_batch = case()
    others = {}
    if beta:
        others["reference"] = moved(policy, 0.5, seed=1)
    if passes > 1:
        others["old"] = moved(policy, 0.3, seed=2)
    micro_batches = [
        with_log_probs(each, **{f"{name[:3]}_per_token_logps": model for name, model in others.items()})
        for each in micro_batches_of(mini_batch, size, aggregation, beta=beta)
    ]
    assert len(micro_batches) == 6 // size
    expected = expected_of(mini_batch, policy, aggregation, beta, kl, **others)
    assert_agree(added_up(policy, micro_batches, beta, kl), expected)
    assert (expected[1]["pg_clipfrac"] > 0.1) == (passes > 1)
    assert (expected[1]["kl"] > 0.01) == (beta > 0)


@pytest.mark.parametrize("aggregation", LOSS_AGGREGATIONS)
def test_masked_truncated_completions_are_not_in_the_loss(policy, aggregation):
    """The metrics are of all tokens, except those of a micro-batch without a token that counts: it is left out."""
    cut = (1, 2, 3)
    mini_batch = case(cut=cut)
    masked = added_up(policy, micro_batches_of(mini_batch, 2, aggregation, "mask"), 0.0, "k3")
    assert_agree(masked, expected_of(mini_batch, policy, aggregation, left_out=cut, unseen=(2, 3)))
    kept = added_up(policy, micro_batches_of(mini_batch, 2, aggregation, "keep"), 0.0, "k3")
    assert_agree(kept, expected_of(mini_batch, policy, aggregation))
    assert abs(kept[0] - masked[0]) > 0.01


@pytest.mark.parametrize("size", [6, 2, 1])
@pytest.mark.parametrize("aggregation", LOSS_AGGREGATIONS)
def test_completions_without_signal_are_left_out_and_change_no_gradient(policy, aggregation, size):
    """Without a KL penalty. They count in the normalisation of the loss, as those with signal do."""
    mini_batch = dataclasses.replace(case(), advantages=np.array([0, 0, 0.4, -1.2, 0, 0], np.float32))
    micro_batches = micro_batches_of(mini_batch, size, aggregation)
    assert len(micro_batches) == {6: 1, 2: 1, 1: 2}[size]
    unseen = () if size == 6 else (0, 1, 4, 5)
    found = added_up(policy, micro_batches, 0.0, "k3")
    assert_agree(found, expected_of(mini_batch, policy, aggregation, unseen=unseen))
    with_penalty = micro_batches_of(mini_batch, size, aggregation, beta=0.3)
    assert len(with_penalty) == 6 // size
    nothing = dataclasses.replace(mini_batch, advantages=np.zeros(6, np.float32))
    assert micro_batches_of(nothing, size, aggregation) == []


@pytest.mark.parametrize("aggregation", LOSS_AGGREGATIONS)
def test_normalising_by_micro_batch_as_stock_tunix_does_is_another_loss(policy, aggregation):
    """A defect without number. With stock's normalisation, the tests above would fail by far."""
    cut = (1, 2)
    mini_batch = case(cut=cut)
    whole = expected_of(mini_batch, policy, aggregation, left_out=cut)
    losses = jnp.asarray(-mini_batch.advantages)[:, None] * jnp.ones(
        (1, MAX_COMPLETION)
    )  # of one update without penalty
    mask = np.arange(MAX_COMPLETION) < np.array([len(row) for row in mini_batch.completions])[:, None]
    mask[list(cut)] = False

    def stock(size):
        of_parts = [
            common.aggregate_loss(losses[start : start + size], mask[start : start + size], TUNIX_MODES[aggregation])
            for start in range(0, 6, size)
        ]
        return float(np.mean(of_parts))

    assert stock(6) == pytest.approx(whole[0], rel=TOLERANCE)
    assert abs(stock(2) - whole[0]) > 0.05 * abs(whole[0])
    ours = added_up(policy, micro_batches_of(mini_batch, 2, aggregation, "mask"), 0.0, "k3")
    assert ours[0] == pytest.approx(whole[0], rel=TOLERANCE)


@pytest.mark.parametrize("aggregation", LOSS_AGGREGATIONS)
def test_the_first_of_several_passes_is_the_plain_policy_gradient(policy, aggregation):
    """The old policy is the policy itself: ratios are 1, nothing is clipped, and the gradient is REINFORCE's."""
    mini_batch = case()
    micro_batches = [
        with_log_probs(each, old_per_token_logps=policy) for each in micro_batches_of(mini_batch, 6, aggregation)
    ]
    loss, metrics, gradient = added_up(policy, micro_batches, 0.0, "k3")
    completions = [
        oracle.Completion(logits_of(policy, mini_batch, row), tokens, float(mini_batch.advantages[row]))
        for row, tokens in enumerate(mini_batch.completions)
    ]
    objective = oracle.Objective(aggregation, MAX_COMPLETION, temperature=TEMPERATURE)
    plain = np.zeros_like(gradient)
    for row, of_row in enumerate(oracle.policy_gradient(completions, objective)):
        np.add.at(plain, indices(mini_batch, row), of_row)
    assert metrics["pg_clipfrac"] == 0
    assert_close(gradient, plain)
    weighted = [oracle.weight(each, completions, objective) * each.advantage * len(each.tokens) for each in completions]
    assert loss == pytest.approx(-np.sum(weighted), rel=TOLERANCE)
    assert_agree((loss, metrics, gradient), added_up(policy, micro_batches_of(mini_batch, 6, aggregation), 0.0, "k3"))


@given(st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6))
def test_entropy_is_that_of_the_distribution(logits):
    exact = oracle.log_softmax(np.array(logits))
    found = np.array(logits, np.float32)
    entropy = float(jax.jit(log_probs.entropies)(found, jax.nn.logsumexp(found)))
    assert entropy == pytest.approx(-(np.exp(exact) * exact).sum(), abs=1e-5)
