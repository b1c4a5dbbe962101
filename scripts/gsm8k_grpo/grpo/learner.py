"""GRPO (DeepSeekMath, arXiv 2402.03300) with LoRA, on Tunix's `RLCluster` and `GRPOLearner`.

The step loop is ours (Tunix's threads, queues and tail handling are not needed where rollout and update share devices),
and so are the formulas (grpo.py); sampling, log-probs, gradients and updates are Tunix's. All randomness of a step
derives from the run's seed and the step: a killed run resumes to what it would have been.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl.grpo import grpo_learner

from gsm8k_grpo.generation import padding
from gsm8k_grpo.grpo import formulas, tunix_setup
from gsm8k_grpo.grpo.groups import Group, count_tokens, sample_rows, sampling_figures
from gsm8k_grpo.grpo.loss import TrainExample
from gsm8k_grpo.grpo.optimizer import is_norm_snapshot, learning_rate_schedule
from gsm8k_grpo.grpo.row_order import batch_rows, replacement_rows
from gsm8k_grpo.models import building, log_probs, matmul_order
from gsm8k_grpo.rewards import scoring
from gsm8k_grpo.rewards.answers import Tags

COMPLETION_LENGTHS = 4  # to how many lengths completions are padded: each that comes up is a compilation
DROPOUT_DRAW = 2**31 - 1  # the number of the draw whose noise is dropout's; rollouts count theirs from 0


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """What a step has sampled and what its updates need.

    Attributes:
      micro_batches: Tunix's training examples, on the mesh.
      figures: of the sampling.
      samples: all completions with their rewards and advantages, to be read.
    """

    micro_batches: list[TrainExample]
    figures: dict
    samples: list[dict]


class Learner(grpo_learner.GRPOLearner):
    """Tunix's GRPO learner, driven one step at a time, with each step's figures returned instead of buffered away.

    A step has two halves, `sample` and `update`; between them the weights are still those of the step before.
    """

    def __init__(
        self,
        cluster: cluster_lib.RLCluster,
        settings: Mapping,
        tags: Tags,
        rows: list[dict],
        seed: int,
        stop_ids: tuple[int, ...],
    ):
        """
        Args:
          cluster: of `make_cluster`; its restored checkpoint says how many steps are done.
          settings: the block `training`.
          tags: what rewards look for.
          rows: all prompts to train on.
          seed: of the run.
          stop_ids: the tokens that end a completion.
        """
        self._settings, self._tags, self._rows, self._seed, self._stop_ids = settings, tags, rows, seed, stop_ids
        self._mesh = cluster.r2m[cluster_lib.Role.ACTOR]
        super().__init__(
            rl_cluster=cluster,
            algo_config=tunix_setup.grpo_config(settings),
            reward_fns=scoring.score,  # wanted by Tunix; `_draw` calls it, for each reward by its name
        )
        pad_id, for_cpu = cluster.rollout.pad_id(), matmul_order.on_cpu(self._mesh)
        # Elsewhere a program of a large model compiles for minutes, and each number of places is one more.
        self._packs = for_cpu and self._mesh.shape["fsdp"] == 1
        self._packs &= building.count_parameters(cluster.actor_trainer.model) >= padding.PACKED_FROM_PARAMETERS
        tunix_setup.set_loss(cluster.actor_trainer, self.algo_config, pad_id, settings["remat"], for_cpu)
        # Its counters lie on one device at first and on the mesh after a step: the step would be compiled twice.
        optimizer = cluster.actor_trainer.optimizer
        nnx.update(optimizer, jax.tree.map(self._placed_on_mesh, nnx.state(optimizer)))
        cluster.actor_trainer.with_rl_metrics_to_log({"kl": np.mean, "entropy": np.mean, "pg_clipfrac": np.mean})

    @property
    def steps_done(self) -> int:
        """Steps whose updates are in the weights."""
        return self.rl_cluster.global_steps

    def sample(self) -> StepBatch:
        """Samples and rewards the next step's completions; draws other prompts where a group has no signal."""
        settings, step = self._settings, self.steps_done
        started = time.perf_counter()
        rows = batch_rows(self._rows, step, settings["prompts_per_step"], self._seed)
        drawn = self._draw(step, 0, rows)
        groups, tokens = list(drawn), count_tokens(drawn)
        for draw in range(1, settings["dynamic_sampling_draws"] + 1):
            flat = [index for index, group in enumerate(groups) if not group.has_signal]
            if not flat:
                break
            others = replacement_rows(self._rows, step, draw, rows, settings["prompts_per_step"], self._seed)
            if not others:
                break
            rows = rows + others
            more = self._draw(step, draw, others)
            tokens += count_tokens(more)
            for index, group in zip(flat, (group for group in more if group.has_signal), strict=False):
                groups[index] = group
        replaced = sum(now is not first for now, first in zip(groups, drawn, strict=True))

        sampled = time.perf_counter()
        totals = np.concatenate([group.total for group in groups])
        advantages = formulas.advantages(totals, settings["num_generations"], settings["advantage_estimator"])
        examples = self._examples(groups, advantages, step)
        if settings["beta"]:
            examples = [self._with_reference(example) for example in examples]
            jax.block_until_ready([example.ref_per_token_logps for example in examples])
        figures = {
            "epoch": (step + 1) / (len(self._rows) // settings["prompts_per_step"]),
            **sampling_figures(drawn),
            "groups_replaced": replaced / len(groups),
            "tokens": tokens,  # of this step; the log adds them up
            "rollout_seconds": sampled - started,
            "reference_seconds": time.perf_counter() - sampled if settings["beta"] else 0.0,
        }
        return StepBatch(examples, figures, sample_rows(groups, advantages, step))

    def update(self, batch: StepBatch) -> dict:
        """μ passes of updates over what `sample` returned.

        Returns:
          the step's figures. Those of the updates (loss, gradient norm, KL, …) are means over the μ passes.
        """
        settings, step = self._settings, self.steps_done
        started = time.perf_counter()
        examples = batch.micro_batches
        if settings["num_iterations"] > 1:  # with one update, the old policy is the policy
            examples = [self._with_old_policy(example) for example in examples]
        passes = []
        for _ in range(settings["num_iterations"]):
            self.rl_cluster.update_actor(examples, None)
            passes.append(self._update_figures())
        self.rl_cluster.global_steps += 1
        rate = learning_rate_schedule(settings)(step * settings["num_iterations"])
        return {
            "step": step + 1,
            "epoch": batch.figures["epoch"],
            "loss": float(np.mean([figures["loss"] for figures in passes])),
            "gradient_norm": float(np.mean([figures["gradient_norm"] for figures in passes])),
            "learning_rate": float(rate),
            "kl": float(np.mean([figures["kl"] for figures in passes])) if settings["beta"] else None,
            "entropy": float(np.mean([figures["entropy"] for figures in passes])),
            "clip_fraction": float(np.mean([figures["pg_clipfrac"] for figures in passes])),
            **batch.figures,
            "update_seconds": time.perf_counter() - started,
        }

    def _update_figures(self) -> dict[str, float]:
        """The figures of the newest update, from where Tunix keeps them until the next one."""
        trainer = self.rl_cluster.actor_trainer
        metrics = trainer._prev_buffered_train_metrics
        (snapshot,) = [
            state
            for state in jax.tree.leaves(trainer.optimizer.opt_state, is_leaf=is_norm_snapshot)
            if is_norm_snapshot(state)
        ]
        named = {name: float(op(np.asarray(values))) for name, (values, op) in metrics.additional_metrics.items()}
        # Each micro-batch carries its share of the mini-batch times their number: the mean is the mini-batch's own.
        norm = jax.tree.leaves(snapshot)[-1]
        return {**named, "loss": float(np.mean([float(loss) for loss in metrics.losses])), "gradient_norm": float(norm)}

    def _draw(self, step: int, draw: int, rows: list[dict]) -> list[Group]:
        """Samples and rewards G completions for each row's prompt."""
        settings, generations = self._settings, self._settings["num_generations"]
        repeated = [row for row in rows for _ in range(generations)]
        self.rl_cluster.rollout.start_draw(step, draw)
        output = self.rl_cluster.generate(
            prompts=[row["prompt"] for row in repeated],
            micro_batch_size=settings["micro_batch_prompts"] * generations,
        )
        by_name = {
            name: np.asarray(values, np.float64)
            for name, values in scoring.score(settings["rewards"], repeated, output.text, self._tags).items()
        }
        lengths = np.array([len(tokens) for tokens in output.tokens])
        if settings["truncated_completions"] == "penalise":
            by_name["overlong"] = formulas.overlong_penalties(
                lengths, settings["max_completion_tokens"], settings["overlong_buffer_tokens"]
            )
        truncated = np.array([tokens[-1] not in self._stop_ids for tokens in output.tokens])
        groups = []
        for index, row in enumerate(rows):
            of_prompt = slice(index * generations, (index + 1) * generations)
            groups.append(
                Group(
                    row,
                    np.asarray(output.left_padded_prompt_tokens[of_prompt.start]),
                    output.text[of_prompt],
                    output.tokens[of_prompt],
                    truncated[of_prompt],
                    {name: values[of_prompt] for name, values in by_name.items()},
                )
            )
        return groups

    def _examples(self, groups: list[Group], advantages: np.ndarray, step: int) -> list[TrainExample]:
        """The mini-batch as micro-batches on the mesh, groups of like length together, each no longer than it must."""
        settings, generations = self._settings, self._settings["num_generations"]
        pad_id, limit = self.rl_cluster.rollout.pad_id(), settings["max_completion_tokens"]
        lengths = np.array([[len(row) for row in group.completion_ids] for group in groups])  # [N, G]
        order = np.argsort(lengths.max(axis=1), kind="stable")
        groups, lengths = [groups[index] for index in order], lengths[order].reshape(-1)
        advantages = advantages.reshape(-1, generations)[order].reshape(-1)
        mask = np.arange(limit) < lengths[:, None]
        ids = np.full(mask.shape, pad_id, np.int32)
        ids[mask] = np.concatenate([row for group in groups for row in group.completion_ids])
        counted = mask.copy()
        if settings["truncated_completions"] == "mask":
            counted[np.concatenate([group.truncated for group in groups])] = False
        weights = formulas.loss_weights(counted, settings["loss_aggregation"], limit)
        means = formulas.loss_weights(mask, "token", limit)
        prompt_ids = np.array([group.prompt_ids for group in groups])

        prompts = settings["micro_batch_prompts"]
        starts = range(0, len(groups), prompts)
        noise = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._seed), step), DROPOUT_DRAW)
        examples = []
        for index, start in enumerate(starts):
            rows = slice(start * generations, (start + prompts) * generations)
            of_prompts = self._trimmed(prompt_ids[start : start + prompts], pad_id)
            padded = (rows, slice(padding.padded_length(lengths[rows].max(), limit, COMPLETION_LENGTHS)))
            dropout_key = None
            if settings["lora"] and settings["lora"]["dropout"]:
                dropout_key = self._on_mesh(np.asarray(jax.random.key_data(jax.random.fold_in(noise, index))), None)
            examples.append(
                TrainExample(
                    prompt_ids=self._on_mesh(of_prompts),
                    prompt_mask=self._on_mesh(of_prompts != pad_id),
                    completion_ids=self._on_mesh(ids[padded]),
                    completion_mask=self._on_mesh(mask[padded]),
                    advantages=self._on_mesh(advantages[rows]),
                    ref_per_token_logps=None,
                    old_per_token_logps=None,
                    # Tunix takes the mean of the micro-batches' gradients; the sum is wanted.
                    loss_weights=self._on_mesh(weights[padded] * np.float32(len(starts))),
                    mean_weights=self._on_mesh(means[padded] * np.float32(len(starts))),
                    packed_places=self._packed_places(mask[padded]),
                    dropout_key=dropout_key,
                )
            )
        return examples

    def _packed_places(self, mask: np.ndarray) -> jax.Array | None:
        """Of a micro-batch's completions; None where all places are computed."""
        places = padding.packed_places(mask) if self._packs else None
        return None if places is None else self._on_mesh(places, None)

    def _trimmed(self, prompt_ids: np.ndarray, pad_id: int) -> np.ndarray:
        """Left-padded prompts no longer than they must be, each as often as `padding.prompt_copies` says."""
        longest = (prompt_ids != pad_id).sum(axis=1).max()
        length = padding.padded_length(longest, prompt_ids.shape[1], padding.PROMPT_LENGTHS)
        settings = self._settings
        copies = padding.prompt_copies(
            settings["micro_batch_prompts"], settings["num_generations"], self._mesh.shape["fsdp"]
        )
        return np.repeat(prompt_ids[:, prompt_ids.shape[1] - length :], copies, axis=0)

    def _placed_on_mesh(self, array: jax.Array) -> jax.Array:
        """The same array; whole on all devices where it was on one."""
        whole = NamedSharding(self._mesh, PartitionSpec())
        return array if isinstance(array.sharding, NamedSharding) else jax.device_put(array, whole)

    def _on_mesh(self, array: np.ndarray, axis: str | None = "fsdp") -> jax.Array:
        """The same array in every process, its first axis sharded over an axis of the mesh, or whole everywhere."""
        return jax.device_put(array, NamedSharding(self._mesh, PartitionSpec(axis)))

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
                self.rl_cluster.rollout.pad_id(),
                self._settings["temperature"],
            )
        return example.replace(ref_per_token_logps=logps)

    def _with_old_policy(self, example: TrainExample) -> TrainExample:
        with self._mesh:
            logps = self.rl_cluster.rollout.get_per_token_logps(
                example.prompt_ids, example.completion_ids, example.packed_places
            )
        return example.replace(old_per_token_logps=logps)
