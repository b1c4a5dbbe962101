"""GRPO (DeepSeekMath, arXiv 2402.03300) with LoRA, on Tunix's `RLCluster` and `GRPOLearner`.

The step loop and the formulas are ours: Tunix's loop needs threads and queues, which bring nothing where rollout and
update share devices. Sampling, log-probs, gradients and updates are Tunix's. All random numbers of a step derive from
the run's seed and the step, so a resumed run makes the same steps as an uninterrupted one.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from tunix.rl.grpo import grpo_learner
from tunix.rl.rl_cluster import RLCluster, Role

from gsm8k_grpo.common import estimators
from gsm8k_grpo.generation import padding
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.groups import Group, count_tokens, sample_rows, sampling_metrics
from gsm8k_grpo.grpo.loss import TrainExample
from gsm8k_grpo.grpo.micro_batches import make_micro_batches
from gsm8k_grpo.grpo.optimizer import learning_rate_schedule
from gsm8k_grpo.grpo.row_order import batch_rows, replacement_rows
from gsm8k_grpo.grpo.training_method import completion_advantages, samples_from_base, settings_of_step
from gsm8k_grpo.grpo.update import PolicyUpdate
from gsm8k_grpo.internals import tunix_internals
from gsm8k_grpo.models import building, log_probs, matmul_order
from gsm8k_grpo.rewards import scoring
from gsm8k_grpo.rewards.answers import Tags
from gsm8k_grpo.rewards.training_rewards import TrainingRewards

DROPOUT_DRAW = 2**31 - 1  # the draw whose random numbers dropout uses; the draws of rollouts count from 0


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """What a step has sampled: micro-batches on the mesh, metrics, and a row of samples.jsonl for each completion."""

    micro_batches: list[TrainExample]
    metrics: dict
    samples: list[dict]


class Learner(grpo_learner.GRPOLearner):
    """Tunix's GRPO learner, driven one step at a time.

    A step has two halves: `sample`, which leaves the weights as they are, and `update`, which returns the metrics.
    """

    def __init__(
        self,
        rl_cluster: RLCluster,
        training_settings: Mapping,
        tags: Tags,
        rows: list[dict],
        seed: int,
        stop_ids: tuple[int, ...],
    ):
        """
        Args:
          rl_cluster: of `make_rl_cluster`; its restored checkpoint decides which step is next.
          training_settings: the block `training`.
          tags, stop_ids: what rewards look for, and the tokens that end a completion.
          rows: all prompts to train on.
          seed: the run's seed.
        """
        self._run_settings, self._rows, self._seed, self._stop_ids = training_settings, rows, seed, stop_ids
        self._tags = tags
        self._rewards = TrainingRewards(training_settings, tags, rows, seed)
        self._mesh = rl_cluster.r2m[Role.ACTOR]
        tunix_internals.hide_memory_warning()
        super().__init__(
            rl_cluster=rl_cluster,
            algo_config=tunix_setup.grpo_config(training_settings),
            reward_fns=scoring.score,  # Tunix requires one; `_draw` calls it itself, to keep each reward's values
        )
        trainer, for_cpu = rl_cluster.actor_trainer, matmul_order.on_cpu(self._mesh)
        # Each number of packed tokens is another program. On an accelerator, a large model's compiles for minutes.
        self._packs = for_cpu and self._mesh.shape["fsdp"] == 1
        self._packs &= building.count_parameters(trainer.model) >= padding.PACKED_FROM_PARAMETERS
        remat = training_settings["remat"]
        self._update = PolicyUpdate(trainer, self.algo_config, self._pad_id, self._mesh, remat, for_cpu)
        # The optimizer's counters are on one device before the first step and on the mesh after it. We move them, or
        # the optimizer would be compiled twice.
        nnx.update(trainer.optimizer, jax.tree.map(self._replicated, nnx.state(trainer.optimizer)))

    @property
    def steps_done(self) -> int:
        """The number of steps whose updates are in the weights."""
        return self.rl_cluster.global_steps

    @property
    def _settings(self) -> Mapping:
        """The block `training` as it holds in the next step."""
        return settings_of_step(self._run_settings, self.steps_done)

    @property
    def _pad_id(self) -> int:
        return self.rl_cluster.rollout.pad_id()

    def sample(self) -> StepBatch:
        """Samples and rewards the next step's completions, and replaces groups without signal by other prompts'."""
        settings, step = self._settings, self.steps_done
        started = time.perf_counter()
        rows = batch_rows(self._rows, step, settings["prompts_per_step"], self._seed)
        first_groups = self._draw(step, 0, rows)
        groups, tokens = list(first_groups), count_tokens(first_groups)
        for draw in range(1, settings["dynamic_sampling_draws"] + 1):
            without_signal = [index for index, group in enumerate(groups) if not group.has_signal]
            if not without_signal:
                break
            others = replacement_rows(self._rows, step, draw, rows, settings["prompts_per_step"], self._seed)
            if not others:
                break
            rows = rows + others
            drawn = self._draw(step, draw, others)
            tokens += count_tokens(drawn)
            for index, group in zip(without_signal, (group for group in drawn if group.has_signal), strict=False):
                groups[index] = group
        replaced = sum(now is not first for now, first in zip(groups, first_groups, strict=True))

        sampled = time.perf_counter()
        advantages = completion_advantages(groups, settings, self._tags)
        micro_batches = make_micro_batches(
            groups, advantages, settings, self._pad_id, self._mesh, self._packs, self._dropout_key(step)
        )
        if settings["beta"]:
            micro_batches = [self._with_reference(example) for example in micro_batches]
            jax.block_until_ready([example.ref_per_token_logps for example in micro_batches])
        metrics = {
            "epoch": (step + 1) / (len(self._rows) // settings["prompts_per_step"]),
            **sampling_metrics(first_groups, completion_advantages(first_groups, settings, self._tags), self._tags),
            "groups_replaced": replaced / len(groups),
            "tokens": tokens,  # of this step alone; `Recorder` adds them up
            "rollout_seconds": sampled - started,
            "reference_seconds": time.perf_counter() - sampled if settings["beta"] else 0.0,
        }
        return StepBatch(micro_batches, metrics, sample_rows(groups, advantages, step))

    def update(self, batch: StepBatch) -> dict:
        """Makes μ passes of updates over what `sample` returned; none where no completion has a gradient.

        Returns:
          the step's row of metrics. Those of the updates (loss, gradient norm, KL, …) are means over the μ passes.
        """
        settings, step = self._settings, self.steps_done
        started = time.perf_counter()
        micro_batches = batch.micro_batches
        if settings["num_iterations"] > 1:  # in the only pass, the old policy is the policy itself
            micro_batches = [self._with_old_policy(example) for example in micro_batches]
        passes = []
        for _ in range(settings["num_iterations"]):
            if micro_batches:
                passes.append(self._update(micro_batches))
            else:
                self._update.skip()
        if not micro_batches:
            print(f"step {step + 1}: no completion has an advantage, so the weights stay", flush=True)
        self.rl_cluster.global_steps += 1

        def mean(name: str) -> float | None:
            return float(np.mean([metrics[name] for metrics in passes])) if passes else None

        return {
            "step": step + 1,
            "epoch": batch.metrics["epoch"],
            "loss": mean("loss") or 0.0,
            "gradient_norm": mean("gradient_norm") or 0.0,
            "learning_rate": float(learning_rate_schedule(settings)(step * settings["num_iterations"])),
            "kl": mean("kl") if settings["beta"] else None,
            "entropy": mean("entropy"),
            "clip_fraction": mean("pg_clipfrac") or 0.0,
            **batch.metrics,
            "update_seconds": time.perf_counter() - started,
        }

    def _draw(self, step: int, draw: int, rows: list[dict]) -> list[Group]:
        """Samples and rewards G completions of each row's prompt."""
        settings, generations = self._settings, self._settings["num_generations"]
        repeated = [row for row in rows for _ in range(generations)]
        rollout, from_base = self.rl_cluster.rollout, samples_from_base(settings)
        rollout.start_draw(step, draw, from_base)
        asked = [row.get("warm_start_prompt", row["prompt"]) if from_base else row["prompt"] for row in repeated]
        output = self.rl_cluster.generate(
            prompts=asked,
            micro_batch_size=len(repeated),  # the rollout samples `rollout_batch` of them at a time
        )
        rewards = {
            name: np.asarray(values, np.float64)
            for name, values in self._rewards.score(repeated, output.text, step, draw).items()
        }
        # The control `random` looks at nothing, so not at lengths either.
        if settings["truncated_completions"] == "penalise" and settings["control"] != "random":
            rewards["overlong"] = estimators.overlong_penalties(
                np.array([len(tokens) for tokens in output.tokens]),
                settings["max_completion_tokens"],
                settings["overlong_buffer_tokens"],
            )
        truncated = np.array([tokens[-1] not in self._stop_ids for tokens in output.tokens])
        # Fine-tuning puts the plain prompt before what the base model wrote after another.
        prompt_ids = rollout.prompt_ids([row["prompt"] for row in rows], output.left_padded_prompt_tokens.shape[1])
        groups = []
        for index, row in enumerate(rows):
            completions = slice(index * generations, (index + 1) * generations)
            groups.append(
                Group(
                    row,
                    prompt_ids[index],
                    output.text[completions],
                    output.tokens[completions],
                    truncated[completions],
                    {name: values[completions] for name, values in rewards.items()},
                    rollout.unsampled[completions],
                )
            )
        return groups

    def _dropout_key(self, step: int) -> jax.Array | None:
        if not self._settings["lora"] or not self._settings["lora"]["dropout"]:
            return None
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self._seed), step), DROPOUT_DRAW)

    def _replicated(self, array: jax.Array) -> jax.Array:
        """An array of one device on all devices of the mesh; an array on the mesh as it is."""
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        return array if isinstance(array.sharding, NamedSharding) else jax.device_put(array, everywhere)

    @functools.cached_property
    def _reference(self) -> tuple[nnx.GraphDef, nnx.State]:
        return nnx.split(self.rl_cluster.inference_worker.get_model("reference"))

    def _with_reference(self, example: TrainExample) -> TrainExample:
        with self._mesh:
            logps = log_probs.log_probs_program(
                *self._reference,
                example.prompt_ids,
                example.completion_ids,
                example.packed_places,
                self._pad_id,
                self._settings["temperature"],
                matmul_order.on_cpu(self._mesh),
            )
        return example.replace(ref_per_token_logps=logps)

    def _with_old_policy(self, example: TrainExample) -> TrainExample:
        with self._mesh:
            logps = self.rl_cluster.rollout.get_per_token_logps(
                example.prompt_ids, example.completion_ids, example.packed_places
            )
        return example.replace(old_per_token_logps=logps)
