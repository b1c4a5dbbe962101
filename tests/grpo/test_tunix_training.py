"""Defects of Tunix 0.1.7 in learner, trainer and checkpoints, each shown on stock Tunix and mended here.

The numbers are those of docs/tunix.md. Formulas are in test_estimators.py and test_kl.py.
"""

import inspect
import json
from unittest import mock

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from tunix.rl import rl_learner
from tunix.rl import trainer as rl_trainer
from tunix.rl.grpo import dapo_learner, grpo_learner
from tunix.rl.rollout import base_rollout
from tunix.sft import checkpoint_manager, peft_trainer

from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.generation import padding
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.kept_checkpoints import kept_steps
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.loop import train_to_end
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.models.lora import with_lora
from gsm8k_grpo.rewards.answers import Tags
from small_gemma import EOS, MAX_PROMPT, PAD, STOP, initialised, leaning

# Stock alone: what a learner makes of completions, what it does with DAPO's settings, how it keeps checkpoints.


def stock_example(config, completions):
    """(The example that stock's learner makes of completions, its RL cluster, which is a mock)."""
    learner, rl_cluster = object.__new__(grpo_learner.GRPOLearner), mock.MagicMock()
    rl_cluster.rollout.pad_id.return_value = PAD
    rl_cluster.cluster_config.rollout_config = base_rollout.RolloutConfig(max_tokens_to_generate=64)
    rl_cluster.generate.return_value = base_rollout.RolloutOutput(
        text=["" for _ in completions],
        logits=None,
        tokens=[np.array(row) for row in completions],
        left_padded_prompt_tokens=np.full((len(completions), 4), 5),
        logprobs=None,
    )
    learner.rl_cluster, learner.algo_config, learner.metric_fns = rl_cluster, config, []
    learner._rollout_micro_batch_size = learner._compute_logps_micro_batch_size = 1
    learner._compute_rewards = lambda **_: np.arange(len(completions), dtype=np.float32)
    return learner._generate_and_compute_advantage({"prompts": ["" for _ in completions]}), rl_cluster


def test_the_stop_token_is_out_of_the_loss_and_padding_up_to_the_limit_in_stock():
    """Defects 3 and 11. Rollouts come without the stop token (test_tunix_rollout.py)."""
    example, _ = stock_example(grpo_learner.GRPOConfig(), [[5, 6], [7]])
    assert np.asarray(example.completion_mask).sum(axis=1).tolist() == [2, 1]  # those tokens, and no stop token
    assert example.completion_ids.shape == (2, 64)


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


def test_no_beta_still_pays_for_the_reference_in_stock():
    """Defect 6."""
    config = dapo_learner.DAPOConfig()
    assert config.beta is None
    _, rl_cluster = stock_example(config, [[5], [6]])
    rl_cluster.get_ref_per_token_logps.assert_called_once()


def test_dynamic_sampling_is_a_promise_in_stock():
    """Defect 6."""
    assert dapo_learner.DAPOConfig().dynamic_sampling
    assert "dynamic_sampling: bool = True  # TODO" in inspect.getsource(dapo_learner.DAPOConfig)
    for code in (dapo_learner.DAPOLearner, grpo_learner, rl_learner):
        assert "dynamic_sampling" not in inspect.getsource(code)


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


# With a learner.

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
    "micro_batch_completions": 4,
    "num_generations": 2,
    "advantage_estimator": "drgrpo",
    "max_completion_tokens": 64,
    # Only their length gives these completions, which end after about two tokens, different rewards.
    "truncated_completions": "penalise",
    "overlong_buffer_tokens": 64,
    "temperature": 0.7,
    "lora": {"rank": 4, "alpha": 4, "target_modules": ["q_einsum", "down_proj"]},
}


def training_settings(**changes):
    return effective_settings("tiny", {"training": {**SMALL, **changes}})["training"]


@pytest.fixture(scope="module")
def make_learner(tokenizer, mesh):
    base = leaning(leaning(initialised(mesh, num_layers=1), STOP, 1.4), EOS, 1.3)
    adapted = with_lora(base, training_settings()["lora"], 0, mesh)

    def make(folder, settings):
        folder.mkdir(exist_ok=True)
        run = Run(folder, settings["num_iterations"])
        run.resume(kept_steps(settings))
        policy = nnx.clone(adapted)  # fresh adapters each time
        reference = base if settings["beta"] else None
        rl_cluster = tunix_setup.make_rl_cluster(
            policy, reference, tokenizer, mesh, settings, MAX_PROMPT, (STOP, EOS), 0, run
        )
        return Learner(rl_cluster, settings, TAGS, ROWS, 0, (STOP, EOS)), run

    return make


@pytest.fixture(scope="module")
def resampling(make_learner, tmp_path_factory):
    """A learner without KL penalty, and a function that samples its first steps with a number of replacement draws."""
    settings = training_settings(beta=0)
    learner, _ = make_learner(tmp_path_factory.mktemp("run"), settings)

    def sampled(draws):
        for step in range(3):
            again = Learner(
                learner.rl_cluster, {**settings, "dynamic_sampling_draws": draws}, TAGS, ROWS, 0, (STOP, EOS)
            )
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


@pytest.mark.parametrize("draws", [1, pytest.param(6, marks=pytest.mark.slow)])
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
        assert after.metrics["groups_replaced"] == new / 4
        assert after.metrics["groups_without_signal"] == before.metrics["groups_without_signal"]
        assert (after.metrics["tokens"] > before.metrics["tokens"]) == (before.metrics["groups_without_signal"] > 0)
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
    assert batch.metrics["reference_seconds"] == 0.0


TWICE = {"num_iterations": 2, "beta": 0.04, "kl_estimator": "k3"}


def state(learner):
    """Adapters and optimizer state, bit for bit."""
    trainer = learner.rl_cluster.actor_trainer
    kept = nnx.state(trainer.model, nnx.LoRAParam), nnx.state(trainer.optimizer, nnx.optimizer.OptState)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in jax.tree.leaves_with_path(kept)}


def steps(run):
    """The rows of a run, without seconds."""
    rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name != "sha256" and not name.endswith("_seconds")}
        for row in rows
    ]


@pytest.fixture(scope="module")
def uninterrupted(make_learner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    learner, run = make_learner(folder, training_settings(**TWICE))
    fresh = state(learner)
    train_to_end(learner, training_settings(**TWICE), run)
    assert state(learner) != fresh
    return run, state(learner)


@pytest.fixture(scope="module")
def interrupted(make_learner, tmp_path_factory):
    """A run that ended after step 2, and a learner that goes on from there."""
    folder, settings = tmp_path_factory.mktemp("interrupted"), training_settings(**TWICE, max_steps=2)
    learner, run = make_learner(folder, settings)
    train_to_end(learner, settings, run)
    return make_learner(folder, training_settings(**TWICE))


@pytest.mark.slow
def test_all_checkpoints_are_kept_here(uninterrupted):
    """Defect 8."""
    run, _ = uninterrupted
    assert sorted(int(path.name) for path in (run.checkpoints / "actor").iterdir()) == [2, 4, 6, 8, 10]
    assert list(run.checkpoint_hashes()) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_the_last_checkpoint_knows_its_step_here(uninterrupted, make_learner):
    """Defect 9."""
    run, final = uninterrupted
    before = run.metrics_file.read_bytes(), run.checkpoint_hashes()
    learner, again = make_learner(run.folder, training_settings(**TWICE))
    assert learner.steps_done == 5
    assert state(learner) == final
    train_to_end(learner, training_settings(**TWICE), again)
    assert learner.steps_done == 5
    assert state(learner) == final
    assert (run.metrics_file.read_bytes(), run.checkpoint_hashes()) == before


@pytest.mark.slow
def test_unseen_prompts_are_skipped_on_resumption_by_stock(interrupted):
    """Defect 10 (google/tunix#2290): where stock goes on in the data after 2 steps of 2 micro-batches, with μ = 2."""
    learner, _ = interrupted
    seen = []

    def process(micro_batches, **_):
        seen.extend(prompt for batch in micro_batches for prompt in batch["prompts"])
        return []

    data = ({"prompts": np.array([f"micro-batch {index}"])} for index in range(20))
    trainer = learner.rl_cluster.actor_trainer  # stock's own counts each micro-batch of each pass
    with (
        mock.patch.object(learner, "_process_accumulated_batches", process),
        mock.patch.object(trainer, "_iter_steps", 2 * 2 * 2),
        mock.patch.object(learner, "_last_iter_step", 2 * 2 * 2),
    ):
        learner._prepare_data(
            data,
            proceed_num_steps=1,
            sample_repeat=2,
            batch_repeat=2,
            service_target_batch_size=1,
            data_queue=mock.Mock(),
        )
    assert seen == ["micro-batch 8"] * 2  # the first unseen one is 4


@pytest.mark.slow
def test_an_interrupted_run_ends_in_the_same_bits_here(uninterrupted, interrupted):
    """Defect 10."""
    whole, final = uninterrupted
    learner, run = interrupted
    assert learner.steps_done == 2 and state(learner) != final
    train_to_end(learner, training_settings(**TWICE), run)
    assert steps(run) == steps(whole)
    assert [row["step"] for row in steps(run)] == [1, 2, 3, 4, 5]
    assert state(learner) == final
