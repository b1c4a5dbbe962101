"""Which rows a step gets, the schedule, and what must not change a step."""

from unittest import mock

import jax
import pytest
from flax import nnx

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.generation import padding
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.optimizer import learning_rate_schedule
from gsm8k_grpo.grpo.row_order import batch_rows, replacement_rows
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.internals import jax_internals
from gsm8k_grpo.models import building, log_probs, storage, tokenizers
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.lora import make_policy
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from gsm8k_grpo.preflight.programs import Programs
from gsm8k_grpo.rewards.answers import Tags

ROWS = [{"id": index} for index in range(10)]


def ids(step, seed=0):
    return [row["id"] for row in batch_rows(ROWS, step, prompts_per_step=3, seed=seed)]


def test_an_epoch_shows_each_row_at_most_once_and_the_next_in_another_order():
    first = [row for step in range(3) for row in ids(step)]
    second = [row for step in range(3, 6) for row in ids(step)]
    assert len(set(first)) == len(set(second)) == 9
    assert first != second
    assert ids(4) == ids(4) and ids(0) != ids(0, seed=1)


def test_fewer_rows_than_a_step_needs_are_an_error():
    with pytest.raises(PipelineError, match=r"training.prompts_per_step: 11 prompts a step, but only 10 rows"):
        batch_rows(ROWS, 0, prompts_per_step=11, seed=0)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_rate_rises_over_a_tenth_of_the_updates_and_falls_to_zero(iterations):
    schedule = learning_rate_schedule(
        {
            "learning_rate": 2.0,
            "warmup_fraction": 0.1,
            "max_steps": 100,
            "schedule_steps": None,
            "num_iterations": iterations,
        }
    )
    rates = [float(schedule(step * iterations)) for step in (0, 5, 10, 55, 100)]
    assert rates == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0], abs=1e-6)


def test_a_longer_schedule_makes_the_first_steps_the_same():
    base = {"learning_rate": 2.0, "warmup_fraction": 0.1, "num_iterations": 1}
    first, longer = (learning_rate_schedule({**base, "max_steps": steps, "schedule_steps": 100}) for steps in (50, 80))
    assert [float(first(step)) for step in range(50)] == [float(longer(step)) for step in range(50)]
    ends = learning_rate_schedule({**base, "max_steps": 50, "schedule_steps": None})
    assert float(ends(49)) < 0.01 < float(first(49))


def test_replacements_are_other_rows_and_a_function_of_seed_step_and_draw():
    taken = ROWS[:3]

    def drawn(step=4, draw=1, seed=0):
        return [row["id"] for row in replacement_rows(ROWS, step, draw, taken, count=3, seed=seed)]

    assert len(set(drawn())) == 3 and not {0, 1, 2} & set(drawn())
    assert drawn() == drawn()
    assert len({str(drawn(step, draw, seed)) for step in (4, 5) for draw in (1, 2) for seed in (0, 1)}) > 4
    few = [row["id"] for row in replacement_rows(ROWS, 4, 1, ROWS[:8], count=3, seed=0)]
    assert sorted(set(few)) == [8, 9] and len(few) == 3
    assert replacement_rows(ROWS, 4, 1, ROWS, count=3, seed=0) == []


@pytest.fixture
def made(tmp_path):
    """What a step of a tiny model makes with these settings: (its micro-batches, its figures without seconds).

    Compiled without most optimizations: nearly all of the time is compilation.
    """
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    sizes = {"family": "qwen2", "sliding_window_tokens": None, "vocabulary_size": 400}
    sizes |= {"num_layers": 1, "embed_dim": 32, "hidden_dim": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
    modules = list(family_of(sizes).modules)
    rows = [{"id": text, "prompt": text, "answer": "5", "prompt_tokens": 8} for text in ("2 + 3", "four and 1")]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_tokenizer([row["prompt"] for row in rows] * 20, 380))

    def step(stop_ids=(107, 1), **more):
        chosen = effective_settings(
            "tiny",
            {
                "model": {"architecture": sizes},
                "training": {
                    **{"max_steps": 1, "checkpoint_interval_steps": 1, "prompts_per_step": 2, "micro_batch_prompts": 1},
                    **{"num_generations": 4, "max_completion_tokens": 8},
                    **{"rewards": ["tests/test_training.py:vowels"], "lora": {"target_modules": modules}},
                    **more,
                },
            },
        )
        how, mesh = chosen["training"], make_mesh(1, 1)
        base = building.initialise(building.tunix_config(chosen["model"]["architecture"]), 0)
        policy = make_policy(base, how["lora"], 0, mesh)
        run = Run(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", how["num_iterations"])
        cluster = tunix_setup.make_rl_cluster(
            policy, base, tokenizers.load_tokenizer(path), mesh, how, 32, stop_ids, 0, run
        )
        learner = Learner(cluster, how, Tags(**chosen["prompt"]["tags"]), rows, 0, stop_ids)
        batch = learner.sample()
        row = learner.update(batch)
        figures = {name: value for name, value in row.items() if "seconds" not in name and value is not None}
        assert figures["gradient_norm"] > 0
        return batch.micro_batches, figures

    yield step
    jax.config.update("jax_disable_most_optimizations", before)


def test_rematerialisation_changes_no_figure_of_a_step(made):
    """Rollouts, which a rematerialised model cannot make, included."""
    assert made(remat=True)[1] == pytest.approx(made(remat=False)[1], rel=1e-4, abs=1e-6)


def test_computing_no_padding_changes_no_figure_of_a_step(made, monkeypatch):
    """Of policy (rematerialised too), old policy and reference; a quarter of all tokens ends a completion."""
    how = {"stop_ids": tuple(range(4, 104)), "num_iterations": 2, "beta": 0.1}
    whole, expected = made(**how)
    monkeypatch.setattr(padding, "PACKED_FROM_PARAMETERS", 0)
    packed, found = made(**how, remat=True)
    assert all(example.packed_places is None for example in whole)
    assert any(example.packed_places is not None for example in packed)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("beta", "num_iterations", "policies"), [(0, 1, []), (0.1, 1, ["reference"]), (0, 2, ["old"])])
def test_log_probs_are_computed_for_those_that_need_them(made, monkeypatch, beta, num_iterations, policies):
    """The reference's with a penalty alone, the old policy's with several updates alone; of two micro-batches."""
    compute = mock.Mock(wraps=log_probs.log_probs_program)
    monkeypatch.setattr(log_probs, "log_probs_program", compute)
    batch, _ = made(beta=beta, num_iterations=num_iterations)
    assert len(batch) == 2 and compute.call_count == 2 * len(policies)
    weights = {"reference": 14, "old": 14 + 2 * 7}  # arrays of a layer of Qwen, and two more for each adapted one
    found = {len(jax.tree.leaves(call.args[1])) for call in compute.call_args_list}
    assert found == {weights[each] for each in policies}


@pytest.mark.parametrize("lora", [True, False])
def test_no_gradient_of_a_frozen_weight_is_formed(lora):
    """No product or sum of a training step has a frozen weight's shape; where all are trained, each is there."""
    sizes = {"vocabulary_size": 400, "num_layers": 1, "embed_dim": 40, "hidden_dim": 56}
    change = {} if lora else {"training": {"lora": None}}
    chosen, mesh = effective_settings("tiny", {"model": {"architecture": sizes}, **change}), make_mesh(1, 1)
    programs = Programs(chosen, mesh)
    step = programs.train_step
    with jax_internals.devices_seen_as(mesh):
        traced = step.jitted_fn.trace(*step._arguments, programs.training_example())
    made = {tuple(sorted(shape)) for shape in products_of(traced.jaxpr.jaxpr)}
    base = storage.abstract_model(building.tunix_config(chosen["model"]["architecture"]), mesh, "float32")
    weights = {tuple(sorted(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(base)) if leaf.ndim > 1}
    assert len(weights) == 4  # embedding, queries (and what attention gives out), keys and values, feed-forward
    assert not weights & made if lora else weights <= made


def products_of(jaxpr):
    """The shapes of all results of products and of sums by index (an embedding's), in functions that are called too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "scatter-add"):
            yield equation.outvars[0].aval.shape
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from products_of(inner)


def vowels(prompts, completions, answers):
    """A reward that random text varies in."""
    return [float(sum(text.count(vowel) for vowel in "aeiou")) for text in completions]
