"""The rows of a step, the learning-rate schedule, and settings that must not change a step's metrics."""

from unittest import mock

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.generation import padding
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.groups import Group
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.micro_batches import make_micro_batches
from gsm8k_grpo.grpo.optimizer import GRADIENT_NORM, learning_rate_schedule, make_optimizer
from gsm8k_grpo.grpo.row_order import batch_rows, replacement_rows
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.training_method import samples_from_base, settings_of_step
from gsm8k_grpo.models import building, log_probs, storage
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.lora import make_policy
from gsm8k_grpo.rewards.answers import Tags

PROMPT_ROWS = [{"id": text, "prompt": text, "answer": "5", "prompt_tokens": 8} for text in ("2 + 3", "four and 1")]
QWEN = {"family": "qwen2", "sliding_window_tokens": None, "vocabulary_size": 400, "num_layers": 1, "embed_dim": 32}
QWEN |= {"hidden_dim": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
ROWS = [{"id": index} for index in range(10)]


def ids(step, seed=0):
    return [row["id"] for row in batch_rows(ROWS, step, prompts_per_step=3, seed=seed)]


def test_an_epoch_uses_each_row_at_most_once_and_the_next_epoch_has_another_order():
    first = [row for step in range(3) for row in ids(step)]
    second = [row for step in range(3, 6) for row in ids(step)]
    assert len(set(first)) == len(set(second)) == 9
    assert first != second
    assert ids(4) == ids(4) and ids(0) != ids(0, seed=1)


def test_fewer_rows_than_a_step_needs_are_an_error():
    with pytest.raises(
        PipelineError, match=r"training.prompts_per_step: expected at most the 10 rows to train on, found 11"
    ):
        batch_rows(ROWS, 0, prompts_per_step=11, seed=0)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_rate_rises_over_a_tenth_of_the_updates_and_falls_to_zero(iterations):
    schedule = learning_rate_schedule(
        {
            "learning_rate": 2.0,
            "final_learning_rate_fraction": 0,
            "warmup_fraction": 0.1,
            "max_steps": 100,
            "schedule_steps": None,
            "num_iterations": iterations,
        }
    )
    rates = [float(schedule(step * iterations)) for step in (0, 5, 10, 55, 100)]
    assert rates == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0], abs=1e-6)


def test_a_longer_run_of_the_same_schedule_has_the_same_first_steps():
    base = {"learning_rate": 2.0, "final_learning_rate_fraction": 0, "warmup_fraction": 0.1, "num_iterations": 1}
    first, longer = (learning_rate_schedule({**base, "max_steps": steps, "schedule_steps": 100}) for steps in (50, 80))
    assert [float(first(step)) for step in range(50)] == [float(longer(step)) for step in range(50)]
    ends = learning_rate_schedule({**base, "max_steps": 50, "schedule_steps": None})
    assert float(ends(49)) < 0.01 < float(first(49))


@pytest.mark.parametrize(
    ("warmup", "fraction", "expected"),
    [(0.1, 0.1, [0.0, 2.0, 1.1, 0.2, 0.2]), (0, 1.0, [2.0] * 5)],
    ids=["to a tenth", "constant"],
)
def test_the_rate_can_end_above_zero_or_be_constant(warmup, fraction, expected):
    training = {"learning_rate": 2.0, "final_learning_rate_fraction": fraction, "warmup_fraction": warmup}
    schedule = learning_rate_schedule({**training, "max_steps": 200, "schedule_steps": 100, "num_iterations": 1})
    assert [float(schedule(step)) for step in (0, 10, 55, 100, 150)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("given", "upper"), [(0.3, 0.3), (None, 0.1)])
def test_the_algorithm_gets_its_settings(given, upper):
    asked = {"num_generations": 6, "num_iterations": 3, "beta": 0.5, "epsilon": 0.1, "temperature": 0.7}
    config = tunix_setup.grpo_config(asked | {"kl_estimator": "k2", "epsilon_high": given})
    found = {name: getattr(config, name) for name in asked}
    assert found == asked and (config.kl_loss_mode, config.epsilon_high) == ("k2", upper)


@pytest.mark.parametrize("largest", [0.5, None])
def test_gradients_are_clipped_to_the_norm_or_not_at_all(largest):
    """AdamW's first moment shows what it gets; the norm that is recorded is the one before clipping."""
    training = effective_settings("tiny", {"training": {"max_gradient_norm": largest, "weight_decay": 0}})["training"]
    optimizer = make_optimizer(training)
    state, gradients = optimizer.init(np.zeros(1, np.float32)), [np.array([g], np.float32) for g in (4.0, 0.5)]
    for gradient in gradients:
        _, state = optimizer.update(gradient, state, np.zeros(1, np.float32))
    assert float(optax.tree.get(state, GRADIENT_NORM)) == 0.5
    clipped = [min(float(g[0]), largest or np.inf) for g in gradients]
    moment = 0.9 * 0.1 * clipped[0] + 0.1 * clipped[1]
    assert float(optax.tree.get(state, "mu")[""][0]) == pytest.approx(moment, rel=1e-5)


def test_replacements_are_other_rows_and_a_function_of_seed_step_and_draw():
    used = ROWS[:3]

    def drawn(step=4, draw=1, seed=0):
        return [row["id"] for row in replacement_rows(ROWS, step, draw, used, count=3, seed=seed)]

    assert len(set(drawn())) == 3 and not {0, 1, 2} & set(drawn())
    assert drawn() == drawn()
    assert len({str(drawn(step, draw, seed)) for step in (4, 5) for draw in (1, 2) for seed in (0, 1)}) > 4
    few = [row["id"] for row in replacement_rows(ROWS, 4, 1, ROWS[:8], count=3, seed=0)]
    assert sorted(set(few)) == [8, 9] and len(few) == 3
    assert replacement_rows(ROWS, 4, 1, ROWS, count=3, seed=0) == []


@pytest.fixture
def make_learner(tokenizer, mesh, tmp_path):
    """Makes learners of a small model: of Qwen2.5's family, or with other sizes."""

    def make(stop_ids=(107, 1), architecture=QWEN, **changes):
        training = {
            **{"max_steps": 1, "checkpoint_interval_steps": 1, "prompts_per_step": 2, "micro_batch_completions": 4},
            **{
                "num_generations": 4,
                "max_completion_tokens": 8,
                "rewards": ["tests/helpers/text_rewards.py:count_vowels"],
            },
            "lora": {"target_modules": list(family_of(architecture).lora_modules)},
        }
        settings = effective_settings(
            "tiny", {"model": {"architecture": architecture}, "training": {**training, **changes}}
        )
        base = building.initialise(building.tunix_config(settings["model"]["architecture"]), 0)
        policy = make_policy(base, settings["training"]["lora"], 0, mesh)
        run = Run(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", settings["training"]["num_iterations"])
        sampled = base if samples_from_base(settings_of_step(settings["training"], 0)) else None
        rl_cluster = tunix_setup.make_rl_cluster(
            policy, base, tokenizer, mesh, settings["training"], 32, stop_ids, 0, run, base=sampled
        )
        return Learner(rl_cluster, settings["training"], Tags.of(settings["prompt"]), PROMPT_ROWS, 0, stop_ids)

    return make


def step(learner):
    """(The micro-batches of a step, its metrics without seconds)."""
    batch = learner.sample()
    row = learner.update(batch)
    metrics = {name: value for name, value in row.items() if "seconds" not in name and value is not None}
    assert metrics["gradient_norm"] > 0
    return batch.micro_batches, metrics


@pytest.mark.slow
def test_rematerialisation_changes_no_metric_of_a_step(make_learner):
    """Rollouts are made too, which a rematerialised model cannot make."""
    (_, expected), (_, found) = (step(make_learner(remat=remat)) for remat in (None, "full"))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_leaving_padding_out_changes_no_metric_of_a_step(make_learner, monkeypatch):
    """In the policy (rematerialised too), old policy and reference. A quarter of all tokens ends a completion."""
    changes = {"stop_ids": tuple(range(4, 104)), "num_iterations": 2, "beta": 0.1}
    whole, expected = step(make_learner(**changes))
    monkeypatch.setattr(padding, "PACKED_FROM_PARAMETERS", 0)
    packed, found = step(make_learner(**changes, remat="full"))
    assert all(example.packed_places is None for example in whole)
    assert any(example.packed_places is not None for example in packed)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("beta", "num_iterations", "policies"),
    [
        (0.1, 1, ["reference"]),
        pytest.param(0, 1, [], marks=pytest.mark.slow),
        pytest.param(0, 2, ["old"], marks=pytest.mark.slow),
    ],
)
def test_log_probs_are_computed_only_where_they_are_needed(make_learner, monkeypatch, beta, num_iterations, policies):
    """A penalty needs the reference's, several updates need the old policy's; of both micro-batches."""
    compute = mock.Mock(wraps=log_probs.log_probs_program)
    monkeypatch.setattr(log_probs, "log_probs_program", compute)
    micro_batches, metrics = step(make_learner(beta=beta, num_iterations=num_iterations))
    assert ("kl" in metrics) == (beta > 0)
    assert len(micro_batches) == 2 and compute.call_count == 2 * len(policies)
    arrays = {"reference": 14, "old": 14 + 2 * 7}  # of a layer of Qwen; adapters add two to each of seven
    found = {len(jax.tree.leaves(call.args[1])) for call in compute.call_args_list}
    assert found == {arrays[each] for each in policies}


def test_a_step_without_signal_leaves_the_weights_and_moves_the_schedule_on(make_learner, capsys):
    """The next step has the learning rate of a run whose first step had signal."""
    rewards = ["tests/helpers/text_rewards.py:pays_all_alike"]
    learner = make_learner(beta=0, rewards=rewards, max_steps=4, schedule_steps=4)
    trainer = learner.rl_cluster.actor_trainer
    before = jax.tree.map(
        np.asarray, nnx.state((trainer.model, trainer.optimizer), nnx.LoRAParam, nnx.optimizer.OptState)
    )
    row = learner.update(learner.sample())
    after = nnx.state((trainer.model, trainer.optimizer), nnx.LoRAParam, nnx.optimizer.OptState)
    changed = [
        path
        for (path, one), (_, other) in zip(
            *(jax.tree_util.tree_leaves_with_path(tuple(each)) for each in (before, after)), strict=True
        )
        if not np.array_equal(one, other)
    ]
    assert len(changed) == 1 and "count" in str(changed[0])
    assert (row["loss"], row["gradient_norm"], row["entropy"], learner.steps_done) == (0.0, 0.0, None, 1)
    assert "step 1: no completion has an advantage, so the weights stay" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "warm_start_steps", "alike"),
    [("rejection_sampling", 0, True), ("grpo", 1, True), ("grpo", 0, False)],
)
def test_rejection_sampling_and_a_warm_start_sample_from_the_base_model_whatever_the_policy_is(
    make_learner, method, warm_start_steps, alike
):
    changes = {"method": method, "warm_start_steps": warm_start_steps, "max_steps": 2, "micro_batch_completions": 8}
    learner = make_learner(**changes, beta=0)
    before = [sample["completion"] for sample in learner.sample().samples]
    policy = learner.rl_cluster.actor_trainer.model
    nnx.update(policy, jax.tree.map(lambda leaf: leaf + 0.5, nnx.state(policy, nnx.LoRAParam)))
    after = [sample["completion"] for sample in learner.sample().samples]
    assert (before == after) == alike


@pytest.mark.parametrize("lora", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_gradient_of_a_frozen_weight_is_computed(make_learner, mesh, lora):
    """With LoRA, no product or sum of a training step has a weight's shape. Without LoRA, each weight's occurs."""
    sizes = {"vocabulary_size": 400, "num_layers": 1, "embed_dim": 40, "hidden_dim": 56}
    architecture = {**effective_settings("tiny", {})["model"]["architecture"], **sizes}
    learner = make_learner(architecture=architecture, beta=0, **({} if lora else {"lora": None}))
    completions = [np.arange(4, 10)] * 4
    groups = [Group({}, np.arange(4, 12), [], completions, np.zeros(4, bool), {}, np.zeros(4))] * 2
    example, _ = make_micro_batches(groups, np.ones(8, np.float32), learner._settings, 0, mesh, False, None)
    graph, trained, frozen = learner._update._model
    shapes = product_shapes(learner._update._gradient.trace(graph, trained, frozen, trained, example).jaxpr.jaxpr)
    computed = {tuple(sorted(shape)) for shape in shapes}
    base = storage.abstract_model(building.tunix_config(architecture), mesh, "float32")
    weights = {tuple(sorted(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(base)) if leaf.ndim > 1}
    assert len(weights) == 4  # embedding; queries and attention's output; keys and values; feed-forward
    assert not weights & computed if lora else weights <= computed


def product_shapes(jaxpr):
    """The shapes of all products and sums by index (an embedding's), also in functions that are called."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "scatter-add"):
            yield equation.outvars[0].aval.shape
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from product_shapes(inner)


@given(limit=st.integers(1, 300))
def test_padded_lengths_are_long_enough_and_at_most_four(limit):
    found = [padding.padded_length(longest, limit, 4) for longest in range(1, limit + 1)]
    assert all(longest <= length <= limit for longest, length in enumerate(found, start=1))
    assert found == sorted(found) and len(set(found)) <= 4 and found[-1] == limit
    assert found[0] == -(-limit // 4)
