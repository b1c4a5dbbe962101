"""GRPO (DeepSeekMath, arXiv 2402.03300) with LoRA, on Tunix's `RLCluster` and `GRPOLearner`.

The step loop is ours (Tunix's threads, queues and tail handling are not needed where rollout and update share devices);
what happens within a step, sampling, reference log-probs, loss and update, is Tunix's. All randomness of a step
derives from the run's seed and the step: a killed run resumes to what it would have been.
"""

import functools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from gsm8k_grpo import files, rewards, rollout
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.checkpoints import checkpoint_steps
from gsm8k_grpo.errors import PipelineError
from gsm8k_grpo.progress import Progress


def batch_rows(rows: list[dict], step: int, prompts_per_step: int, seed: int) -> list[dict]:
    """The rows of one step (0-based): epochs over all rows, each in an order of its own; a pure function of its inputs.

    Rows that do not fill a last batch of an epoch are left out of that epoch.
    """
    steps_per_epoch = len(rows) // prompts_per_step
    if not steps_per_epoch:
        raise PipelineError(
            f"training.prompts_per_step: {prompts_per_step} prompts a step, but only {len(rows)} rows to train on"
        )
    epoch, place = divmod(step, steps_per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(len(rows))
    return [rows[index] for index in order[place * prompts_per_step : (place + 1) * prompts_per_step]]


def learning_rate_schedule(settings: Mapping) -> optax.Schedule:
    """Linear warm-up over `warmup_fraction` of the updates (μ a step), then a cosine to 0, as published."""
    updates = settings["max_steps"] * settings["num_iterations"]
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings["learning_rate"],
        warmup_steps=min(max(1, round(settings["warmup_fraction"] * updates)), max(1, updates - 1)),
        decay_steps=max(2, updates),
    )


def make_optimizer(settings: Mapping) -> optax.GradientTransformation:
    """AdamW behind clipping by global norm."""
    return optax.chain(
        optax.clip_by_global_norm(settings["max_gradient_norm"]),
        optax.adamw(
            learning_rate_schedule(settings),
            b1=settings["adam_b1"],
            b2=settings["adam_b2"],
            weight_decay=settings["weight_decay"],
        ),
    )


def make_cluster(
    policy: nnx.Module,
    reference: nnx.Module,
    tokenizer: object,
    mesh: Mesh,
    settings: Mapping,
    max_prompt_tokens: int,
    stop_id: int,
    seed: int,
    checkpoint_folder: Path,
) -> cluster_lib.RLCluster:
    """Tunix's cluster with policy, reference and rollout on one mesh; restores the newest checkpoint of the folder."""
    return cluster_lib.RLCluster(
        actor=policy,
        reference=reference,
        tokenizer=tokenizer,
        cluster_config=cluster_lib.ClusterConfig(
            role_to_mesh={
                role: mesh for role in (cluster_lib.Role.ACTOR, cluster_lib.Role.REFERENCE, cluster_lib.Role.ROLLOUT)
            },
            rollout_engine=functools.partial(rollout.SeededRollout, seed=seed),
            training_config=cluster_lib.RLTrainingConfig(
                actor_optimizer=make_optimizer(settings),
                eval_every_n_steps=settings["max_steps"] + 1,
                mini_batch_size=settings["prompts_per_step"],
                train_micro_batch_size=settings["micro_batch_prompts"],
                rollout_micro_batch_size=settings["micro_batch_prompts"],
                compute_logps_micro_batch_size=settings["micro_batch_prompts"],
                checkpoint_root_directory=str(checkpoint_folder.absolute()),
                checkpointing_options=ocp.CheckpointManagerOptions(
                    # Tunix saves by itself in the middle of a step, by default the newest 3, one every 180 s. `run`
                    # saves instead, when the step's row is in the log, and keeps all.
                    save_decision_policy=checkpoint_managers.SpecificStepsPolicy(steps=[]),
                    max_to_keep=None,
                ),
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=settings["max_completion_tokens"],
                max_prompt_length=max_prompt_tokens,
                kv_cache_size=rollout.cache_tokens(max_prompt_tokens, settings["max_completion_tokens"]),
                temperature=settings["temperature"],
                top_p=settings["top_p"],
                top_k=settings["top_k"],
                eos_tokens=[stop_id],
            ),
        ),
    )


def restored_cluster(run_folder: Path, *arguments: object) -> cluster_lib.RLCluster:
    """`make_cluster` over the checkpoints of a run's folder; a damaged one is an error that says what to move away."""
    try:
        return make_cluster(*arguments, run_folder / "checkpoints")
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0][:120]
        raise PipelineError(
            f"{run_folder / 'checkpoints'}: the newest checkpoint cannot be restored ({reason}); move "
            f"{run_folder} away to train from the start"
        ) from error


def checkpoint_folder(run_folder: Path, step: int, settings: Mapping) -> Path:
    """Where Tunix keeps the checkpoint of a step: it counts updates, μ of them a step."""
    return run_folder / "checkpoints" / "actor" / str(step * settings["num_iterations"])


class Learner(grpo_learner.GRPOLearner):
    """Tunix's GRPO learner, driven one step at a time, with each step's figures returned instead of buffered away."""

    def __init__(self, cluster: cluster_lib.RLCluster, settings: Mapping, tags: Tags):
        self._settings, self._tags = settings, tags
        self._figures: dict[str, float] = {}
        super().__init__(
            rl_cluster=cluster,
            algo_config=grpo_learner.GRPOConfig(
                num_generations=settings["num_generations"],
                num_iterations=settings["num_iterations"],
                beta=settings["beta"],
                # Schulman's k3 estimator, the one of the GRPO paper (eq. 4). Tunix's default, k1 as a loss, has
                # almost no gradient.
                kl_loss_mode="low_var_kl",
                epsilon=settings["epsilon"],
            ),
            reward_fns=self._reward,
        )
        self._rollout_micro_batch_size = self._training_config.rollout_micro_batch_size
        self._compute_logps_micro_batch_size = self._training_config.compute_logps_micro_batch_size

    def _reward(self, prompts: list[str], completions: list[str], answer: list[str], **_: object) -> list[float]:
        """The sum of the recipe's rewards for each completion; Tunix calls this with all rows of a step."""
        by_name = rewards.score(self._settings["rewards"], completions, list(answer), self._tags)
        total = np.sum([by_name[name] for name in by_name], axis=0)
        groups = total.reshape(-1, self._settings["num_generations"])
        self._figures = {
            **{f"reward_{name}": float(np.mean(values)) for name, values in by_name.items()},
            "reward": float(np.mean(total)),
            "reward_std": float(np.std(total)),
            "groups_without_signal": float(np.mean(np.ptp(groups, axis=1) == 0)),
        }
        return total.tolist()

    def step(self, step: int, rows: list[dict]) -> dict[str, float]:
        """One GRPO step (0-based) on the rows of its prompts: sample, reward, then μ passes of updates.

        Returns:
          the step's figures, all floats but `step` (1-based: steps done).
        """
        started = time.perf_counter()
        generations = self._settings["num_generations"]
        self.rl_cluster.rollout.start_step(step)
        batch = {
            "prompts": np.repeat([row["prompt"] for row in rows], generations),
            "answer": np.repeat([row["answer"] for row in rows], generations),
        }
        example = self._generate_and_compute_advantage(batch)
        lengths = np.asarray(example.completion_mask).sum(axis=1)
        sampled = time.perf_counter()

        size = self._settings["micro_batch_prompts"] * generations
        micro_batches = [
            jax.tree.map(lambda leaf, at=start: leaf[at : at + size], example) for start in range(0, len(lengths), size)
        ]
        for _ in range(self._settings["num_iterations"]):
            self.rl_cluster.update_actor(micro_batches, None)
        self.rl_cluster.global_steps += 1
        # Tunix holds an update's figures back until the next one, to write them while the device computes.
        metrics = self.rl_cluster.actor_trainer._prev_buffered_train_metrics
        aggregated = {name: float(op(np.asarray(values))) for name, (values, op) in metrics.additional_metrics.items()}
        limit = self._settings["max_completion_tokens"]
        return {
            "step": step + 1,
            "loss": float(metrics.loss),
            "gradient_norm": aggregated["grad_norm"],
            "learning_rate": float(learning_rate_schedule(self._settings)(step * self._settings["num_iterations"])),
            "kl": aggregated["kl"],
            "clip_fraction": aggregated["pg_clipfrac"],
            **self._figures,
            "completion_tokens_mean": float(lengths.mean()),
            "completion_tokens_max": float(lengths.max()),
            "truncated_rate": float(np.mean(lengths >= limit)),
            "rollout_seconds": sampled - started,
            "update_seconds": time.perf_counter() - sampled,
        }


def run(learner: Learner, rows: list[dict], settings: Mapping, seed: int, metrics_file: Path) -> list[dict]:
    """Trains up to `max_steps` from wherever the newest checkpoint stands.

    Each step's figures are appended to `metrics_file` (jsonl). On a restart, lines beyond the restored checkpoint are
    dropped: those steps are made again, to the same figures.

    Returns:
      one row for each step from 1 to `max_steps`.
    """
    cluster = learner.rl_cluster
    restored = cluster.global_steps
    history = _truncate(metrics_file, restored)
    if restored:
        print(f"resuming after step {restored} of {settings['max_steps']}", flush=True)
    kept = checkpoint_steps(settings["max_steps"], settings["checkpoint_interval_steps"])
    progress = Progress("training", settings["max_steps"], "steps", done=restored)
    with open(metrics_file, "a", encoding="utf-8") as log:
        for step in range(restored, settings["max_steps"]):
            figures = learner.step(step, batch_rows(rows, step, settings["prompts_per_step"], seed))
            if not np.isfinite([figures["loss"], figures["gradient_norm"]]).all():
                raise PipelineError(
                    f"step {step + 1}: loss {figures['loss']}, gradient norm {figures['gradient_norm']}; training "
                    "stopped at the last checkpoint. Lower training.learning_rate or training.max_gradient_norm"
                )
            history.append(figures)
            log.write(json.dumps(figures) + "\n")
            log.flush()
            if step + 1 in kept:
                os.fsync(log.fileno())  # a checkpoint never stands without the rows of the steps that led to it
                _save(cluster, settings)
            progress.advance(reward=figures["reward"], kl=figures["kl"])
    cluster.actor_trainer.checkpoint_manager.close()
    return history


def _save(cluster: cluster_lib.RLCluster, settings: Mapping) -> None:
    """Saves adapters and optimizer state; the write itself goes on beside the next steps."""
    trainer = cluster.actor_trainer
    trainer.checkpoint_manager.save(
        cluster.global_steps * settings["num_iterations"],
        trainer.model,
        trainer.optimizer,
        save_only_lora_params=True,
        force=True,
        custom_metadata={"global_step": cluster.global_steps, "role": cluster_lib.Role.ACTOR.value},
    )


def _truncate(metrics_file: Path, steps: int) -> list[dict]:
    """Keeps the rows of the first `steps` steps of a run's own log, dropping a line that a kill cut short."""
    kept = []
    if metrics_file.exists():
        for line in metrics_file.read_text(encoding="utf-8").splitlines()[:steps]:
            try:
                kept.append(json.loads(line))
            except json.JSONDecodeError:
                break
    if [row["step"] for row in kept] != list(range(1, steps + 1)):
        raise PipelineError(
            f"{metrics_file}: has not one row for each of the {steps} steps before the restored checkpoint; move the "
            f"folder {metrics_file.parent} away to train from the start"
        )
    files.write_jsonl(metrics_file, kept)
    return kept
