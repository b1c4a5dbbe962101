"""GRPO (DeepSeekMath, arXiv 2402.03300) with LoRA, on Tunix's `RLCluster` and `GRPOLearner`.

The step loop is ours (Tunix's threads, queues and tail handling are not needed where rollout and update share devices),
and so are the formulas (grpo.py); sampling, log-probs, gradients and updates are Tunix's. All randomness of a step
derives from the run's seed and the step: a killed run resumes to what it would have been.
"""

import dataclasses
import functools
import itertools
import re
import time
from collections.abc import Mapping

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import checkpoint_managers
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl import trainer as rl_trainer
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from gsm8k_grpo import errors, grpo, log_probs, models, padding, products, rewards, rollout, runs, runtime, watch
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.checkpoints import checkpoint_steps
from gsm8k_grpo.errors import PipelineError
from gsm8k_grpo.preemption import Preemption
from gsm8k_grpo.progress import Progress
from gsm8k_grpo.trackers import Trackers

COMPLETION_LENGTHS = 4  # to how many lengths completions are padded: each that comes up is a compilation
DROPOUT_DRAW = 2**31 - 1  # the number of the draw whose noise is dropout's; rollouts count theirs from 0


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


def replacement_rows(rows: list[dict], step: int, draw: int, taken: list[dict], count: int, seed: int) -> list[dict]:
    """The `count` rows of a step's later draw (1, 2, …), none of them among `taken`; where fewer are left, over again.

    Like `batch_rows` a pure function of its inputs.
    """
    order = np.random.default_rng((seed, step, draw)).permutation(len(rows))
    ids = {row["id"] for row in taken}
    others = [rows[index] for index in order if rows[index]["id"] not in ids]
    return list(itertools.islice(itertools.cycle(others), count))


def learning_rate_schedule(settings: Mapping) -> optax.Schedule:
    """Linear warm-up over `warmup_fraction` of the updates (μ a step), then a cosine to 0, as published."""
    updates = (settings["schedule_steps"] or settings["max_steps"]) * settings["num_iterations"]
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings["learning_rate"],
        warmup_steps=round(settings["warmup_fraction"] * updates),
        decay_steps=max(2, updates),
    )


def make_optimizer(settings: Mapping) -> optax.GradientTransformation:
    """AdamW behind clipping by global norm; the norm before clipping is kept in the state."""
    return optax.chain(
        optax.snapshot("gradient_norm", optax.global_norm),
        optax.clip_by_global_norm(settings["max_gradient_norm"]),
        optax.adamw(
            learning_rate_schedule(settings),
            b1=settings["adam_b1"],
            b2=settings["adam_b2"],
            weight_decay=settings["weight_decay"],
        ),
    )


def cluster_config(
    mesh: Mesh,
    settings: Mapping,
    max_prompt_tokens: int,
    stop_ids: tuple[int, ...],
    seed: int,
    checkpoints: str | None,
    gather_weights: bool,
) -> cluster_lib.ClusterConfig:
    """What Tunix's cluster makes its trainer and its rollout of; `checkpoints` is their folder, None where none are."""
    return cluster_lib.ClusterConfig(
        role_to_mesh={
            role: mesh for role in (cluster_lib.Role.ACTOR, cluster_lib.Role.REFERENCE, cluster_lib.Role.ROLLOUT)
        },
        rollout_engine=functools.partial(
            rollout.SeededRollout,
            seed=seed,
            generations=settings["num_generations"],
            gather_weights=gather_weights,
            lora=settings["lora"],
        ),
        training_config=cluster_lib.RLTrainingConfig(
            actor_optimizer=make_optimizer(settings),
            eval_every_n_steps=settings["max_steps"] + 1,
            mini_batch_size=settings["prompts_per_step"],
            train_micro_batch_size=settings["micro_batch_prompts"],
            rollout_micro_batch_size=settings["micro_batch_prompts"],
            compute_logps_micro_batch_size=settings["micro_batch_prompts"],
            checkpoint_root_directory=checkpoints,
            checkpointing_options=ocp.CheckpointManagerOptions(
                # Tunix saves by itself in the middle of a step, by default the newest 3, one every 180 s. `run`
                # saves instead, when the step's row is in the log, and keeps all.
                save_decision_policy=checkpoint_managers.SpecificStepsPolicy(steps=[]),
                max_to_keep=None,
                enable_async_checkpointing=False,
            ),
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=settings["max_completion_tokens"],
            max_prompt_length=max_prompt_tokens,
            kv_cache_size=rollout.cache_tokens(max_prompt_tokens, settings["max_completion_tokens"]),
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            top_k=settings["top_k"],
            eos_tokens=list(stop_ids),
        ),
    )


def make_cluster(
    policy: nnx.Module,
    reference: nnx.Module | None,
    tokenizer: object,
    mesh: Mesh,
    settings: Mapping,
    max_prompt_tokens: int,
    stop_ids: tuple[int, ...],
    seed: int,
    run: runs.Run,
    gather_weights: bool = True,
) -> cluster_lib.RLCluster:
    """Tunix's cluster with policy, reference and rollout on one mesh; restores the newest checkpoint of the run.

    Args:
      policy: with adapters; they are what is trained.
      reference: the frozen model of the KL penalty, or None without one.
      run: its folder, cleaned by `runs.Run.resume`.
      gather_weights: as `rollout.Sampler` has it.

    Raises:
      PipelineError: the checkpoint cannot be restored, though its hash is right.
    """
    config = cluster_config(
        mesh, settings, max_prompt_tokens, stop_ids, seed, str(run.checkpoints.absolute()), gather_weights
    )
    try:
        return cluster_lib.RLCluster(actor=policy, reference=reference, tokenizer=tokenizer, cluster_config=config)
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0][:120]
        raise PipelineError(
            f"{run.checkpoints}: the newest checkpoint cannot be restored ({reason}); move {run.folder} away to train "
            "from the start"
        ) from error


@dataclasses.dataclass(kw_only=True)
class GrpoConfig(grpo_learner.GRPOConfig):
    """Tunix's configuration with the field that its loss looks for and its class lacks."""

    epsilon_high: float


def grpo_config(settings: Mapping) -> GrpoConfig:
    """Tunix's configuration of the block `training`."""
    config = GrpoConfig(
        policy_loss_fn=grpo.LOSS,
        num_generations=settings["num_generations"],
        num_iterations=settings["num_iterations"],
        beta=settings["beta"],
        kl_loss_mode=settings["kl_estimator"],
        epsilon=settings["epsilon"],
        epsilon_high=settings["epsilon_high"] or settings["epsilon"],
    )
    config.temperature = settings["temperature"]
    return config


def set_loss(trainer: rl_trainer.Trainer, config: GrpoConfig, pad_id: int, remat: bool, for_cpu: bool) -> None:
    """Has Tunix's trainer minimise our loss. Training and its preflight (preflight.py) both call this."""

    def loss(model: nnx.Module, train_example: grpo.TrainExample) -> tuple:
        return grpo.policy_loss(model, train_example, algo_config=config, pad_id=pad_id)

    trainer.with_loss_fn(loss, has_aux=True)
    trainer.with_gen_model_input_fn(lambda example: {"train_example": example})
    trainer._jitted_train_step_fn = functools.partial(TrainStep(trainer, remat, for_cpu))


class TrainStep:
    """Tunix's training step as a program that returns what it changes.

    Stock's (`nnx.jit`) returns all weights of the model, the frozen ones too: a second copy of them while it runs. This
    stands in its place in Tunix's trainer, which asks it for `jitted_fn`.
    """

    def __init__(self, trainer: rl_trainer.Trainer, remat: bool, for_cpu: bool):
        """
        Args:
          trainer: its model and optimizer are taken apart at the first call and must stay the same objects; what is
            in them may change. Its loss is looked up when a program is traced.
          remat: whether the backward pass computes activations again. Of the model in this program alone: nnx cannot
            rematerialise in the loop that decodes.
          for_cpu: whether products are in the order that a CPU is fast at.
        """
        self._trainer, self._remat = trainer, remat
        step = products.smaller_turned(self._step) if for_cpu else self._step
        self.jitted_fn = jax.jit(step, donate_argnums=4)

    def lower(self, example: grpo.TrainExample) -> jax.stages.Lowered:
        """The program for such a micro-batch."""
        return self.jitted_fn.lower(*self._arguments, example)

    def __call__(self, example: grpo.TrainExample) -> tuple:
        """Updates the trainer's model and optimizer; returns what Tunix's own step does: (loss, figures, norm)."""
        figures, trained, optimizer = self.jitted_fn(*self._arguments, example)
        nnx.update(self._trainer.model, trained)
        nnx.update(self._trainer.optimizer, optimizer)
        return figures

    @functools.cached_property
    def _arguments(self) -> tuple:
        """Model and optimizer in parts, which share their variables: they are up to date at each call."""
        graph, trained, frozen = nnx.split(self._trainer.model, self._trainer.optimizer.wrt, ...)
        optimizer_graph, optimizer = nnx.split(self._trainer.optimizer)
        return graph, optimizer_graph, trained, frozen, optimizer

    def _step(
        self,
        graph: nnx.GraphDef,
        optimizer_graph: nnx.GraphDef,
        trained: nnx.State,
        frozen: nnx.State,
        optimizer: nnx.State,
        example: grpo.TrainExample,
    ) -> tuple:
        model, optimizer = nnx.merge(graph, trained, frozen), nnx.merge(optimizer_graph, optimizer)
        if self._remat:
            models.rematerialise(model)
        figures = self._trainer._train_step(model, optimizer, example)
        return figures, nnx.state(model, self._trainer.optimizer.wrt), nnx.state(optimizer)


@dataclasses.dataclass(frozen=True)
class Group:
    """The G completions of one prompt, on the host.

    Attributes:
      row: the prompt's row.
      prompt_ids: [P] left-padded.
      completions: G texts.
      completion_ids: G arrays of tokens, the stop token last where there is one.
      truncated: [G] whether the limit cut it.
      rewards: [G] values by the reward's name.
    """

    row: dict
    prompt_ids: np.ndarray
    completions: list[str]
    completion_ids: list[np.ndarray]
    truncated: np.ndarray
    rewards: dict[str, np.ndarray]

    @functools.cached_property
    def total(self) -> np.ndarray:
        """[G] summed rewards."""
        return np.sum(list(self.rewards.values()), axis=0)

    @property
    def has_signal(self) -> bool:
        """Whether any completion is better than another."""
        return bool(np.ptp(self.total) > 0)


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a step has sampled and what its updates need.

    Attributes:
      micro_batches: Tunix's training examples, on the mesh.
      figures: of the sampling.
      samples: all completions with their rewards and advantages, to be read.
    """

    micro_batches: list[grpo.TrainExample]
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
            algo_config=grpo_config(settings),
            reward_fns=rewards.score,  # wanted by Tunix; `_draw` calls it, for each reward by its name
        )
        pad_id, for_cpu = cluster.rollout.pad_id(), products.on_cpu(self._mesh)
        # Elsewhere a program of a large model compiles for minutes, and each number of places is one more.
        self._packs = for_cpu and self._mesh.shape["fsdp"] == 1
        self._packs &= models.count_parameters(cluster.actor_trainer.model) >= padding.PACKED_FROM_PARAMETERS
        set_loss(cluster.actor_trainer, self.algo_config, pad_id, settings["remat"], for_cpu)
        # Its counters lie on one device at first and on the mesh after a step: the step would be compiled twice.
        optimizer = cluster.actor_trainer.optimizer
        nnx.update(optimizer, jax.tree.map(self._placed_on_mesh, nnx.state(optimizer)))
        cluster.actor_trainer.with_rl_metrics_to_log({"kl": np.mean, "entropy": np.mean, "pg_clipfrac": np.mean})

    @property
    def steps_done(self) -> int:
        """Steps whose updates are in the weights."""
        return self.rl_cluster.global_steps

    def sample(self) -> Batch:
        """Samples and rewards the next step's completions; draws other prompts where a group has no signal."""
        settings, step = self._settings, self.steps_done
        started = time.perf_counter()
        rows = batch_rows(self._rows, step, settings["prompts_per_step"], self._seed)
        drawn = self._draw(step, 0, rows)
        groups, tokens = list(drawn), _tokens(drawn)
        for draw in range(1, settings["dynamic_sampling_draws"] + 1):
            flat = [index for index, group in enumerate(groups) if not group.has_signal]
            if not flat:
                break
            others = replacement_rows(self._rows, step, draw, rows, settings["prompts_per_step"], self._seed)
            if not others:
                break
            rows = rows + others
            more = self._draw(step, draw, others)
            tokens += _tokens(more)
            for index, group in zip(flat, (group for group in more if group.has_signal), strict=False):
                groups[index] = group
        replaced = sum(now is not first for now, first in zip(groups, drawn, strict=True))

        sampled = time.perf_counter()
        totals = np.concatenate([group.total for group in groups])
        advantages = grpo.advantages(totals, settings["num_generations"], settings["advantage_estimator"])
        examples = self._examples(groups, advantages, step)
        if settings["beta"]:
            examples = [self._with_reference(example) for example in examples]
            jax.block_until_ready([example.ref_per_token_logps for example in examples])
        figures = {
            "epoch": (step + 1) / (len(self._rows) // settings["prompts_per_step"]),
            **_sampling_figures(drawn),
            "groups_replaced": replaced / len(groups),
            "tokens": tokens,  # of this step; the log adds them up
            "rollout_seconds": sampled - started,
            "reference_seconds": time.perf_counter() - sampled if settings["beta"] else 0.0,
        }
        return Batch(examples, figures, _samples(groups, advantages, step))

    def update(self, batch: Batch) -> dict:
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
            state for state in jax.tree.leaves(trainer.optimizer.opt_state, is_leaf=_is_snapshot) if _is_snapshot(state)
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
            for name, values in rewards.score(settings["rewards"], repeated, output.text, self._tags).items()
        }
        lengths = np.array([len(tokens) for tokens in output.tokens])
        if settings["truncated_completions"] == "penalise":
            by_name["overlong"] = grpo.overlong_penalties(
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

    def _examples(self, groups: list[Group], advantages: np.ndarray, step: int) -> list[grpo.TrainExample]:
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
        weights = grpo.loss_weights(counted, settings["loss_aggregation"], limit)
        means = grpo.loss_weights(mask, "token", limit)
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
                grpo.TrainExample(
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

    def _with_reference(self, example: grpo.TrainExample) -> grpo.TrainExample:
        with self._mesh:
            logps = log_probs.compute(
                *self._reference,
                example.prompt_ids,
                example.completion_ids,
                example.packed_places,
                self.rl_cluster.rollout.pad_id(),
                self._settings["temperature"],
            )
        return example.replace(ref_per_token_logps=logps)

    def _with_old_policy(self, example: grpo.TrainExample) -> grpo.TrainExample:
        with self._mesh:
            logps = self.rl_cluster.rollout.get_per_token_logps(
                example.prompt_ids, example.completion_ids, example.packed_places
            )
        return example.replace(old_per_token_logps=logps)


def _is_snapshot(state: object) -> bool:
    return isinstance(state, optax.transforms.SnapshotState)


def _tokens(groups: list[Group]) -> int:
    """Prompt and completion tokens of groups, without padding."""
    generations = len(groups[0].completions)
    return sum(
        generations * group.row["prompt_tokens"] + sum(len(row) for row in group.completion_ids) for group in groups
    )


def _sampling_figures(groups: list[Group]) -> dict[str, float]:
    """Of what the policy did with a step's own prompts, before any other was drawn in their place."""
    lengths = [len(row) for group in groups for row in group.completion_ids]
    totals = np.concatenate([group.total for group in groups])
    means = {f"reward_{name}": float(np.mean([group.rewards[name] for group in groups])) for name in groups[0].rewards}
    return {
        **means,
        "reward": float(totals.mean()),
        "reward_std": float(totals.std()),
        "groups_without_signal": float(np.mean([not group.has_signal for group in groups])),
        "completion_tokens_mean": float(np.mean(lengths)),
        "completion_tokens_max": float(np.max(lengths)),
        "truncated_rate": float(np.mean([group.truncated for group in groups])),
    }


def _samples(groups: list[Group], advantages: np.ndarray, step: int) -> list[dict]:
    rows = []
    for group in groups:
        for index, completion in enumerate(group.completions):
            rows.append(
                {
                    "step": step + 1,
                    "id": group.row["id"],
                    "completion": completion,
                    "answer": group.row["answer"],
                    "tokens": len(group.completion_ids[index]),
                    "truncated": bool(group.truncated[index]),
                    "rewards": {name: float(values[index]) for name, values in group.rewards.items()},
                    "reward": float(group.total[index]),
                    "advantage": float(advantages[len(rows)]),
                }
            )
    return rows


def run(learner: Learner, settings: Mapping, folder: runs.Run) -> None:
    """Trains up to `max_steps` from wherever the newest checkpoint stands.

    SIGTERM saves the newest whole step and ends the process, in seconds.

    Args:
      learner: over a cluster of `make_cluster`.
      settings: the block `training`.
      folder: where rows, kept completions and checkpoints go.
    """
    first, alone = learner.steps_done, jax.process_count() == 1
    history = folder.history(first)
    promised = checkpoint_steps(settings["max_steps"], settings["checkpoint_interval_steps"])
    recorder = Recorder(folder, history, settings, promised) if runtime.leads() else None

    def stopped() -> str:
        if not alone:
            return "the processes of one run do not stop together; the last checkpoint stands"
        if recorder.recorded < learner.steps_done:
            return f"step {learner.steps_done} went wrong; the last checkpoint stands"
        if recorder.saved < learner.steps_done:
            _write_checkpoint(learner, settings, folder)
            recorder.commit(learner.steps_done)
        return f"step {learner.steps_done} is saved; the same command goes on from there"

    with Preemption(stopped) as preemption:
        while learner.steps_done < settings["max_steps"]:
            batch = learner.sample()
            with preemption.lock:
                row = learner.update(batch)
                watch.require_finite(row)
                row["checkpoint_seconds"] = 0.0
                if row["step"] in promised:
                    row["checkpoint_seconds"] = _write_checkpoint(learner, settings, folder)
                if recorder:
                    recorder.record(row, batch.samples)
    learner.rl_cluster.actor_trainer.checkpoint_manager.close()
    if recorder:
        recorder.close()


class Recorder:
    """What a run leaves beside its checkpoints: rows, kept completions, trackers, progress, warnings."""

    def __init__(self, folder: runs.Run, history: list[dict], settings: Mapping, promised: list[int]):
        """
        Args:
          folder: of the run.
          history: the rows of the steps made before; rows recorded are appended to it.
          settings: the block `training`.
          promised: the steps whose checkpoints are listed with `record`.
        """
        self._folder, self._history, self._promised = folder, history, promised
        self._kept_completions = settings["kept_completions"]
        self._log = runs.Log(folder)
        self._trackers = Trackers(folder.folder, history, settings, folder.folder.name)
        self._progress = Progress("training", settings["max_steps"], "steps", done=len(history))
        self.saved = len(history)  # the newest step with a checkpoint
        if history:
            print(f"resuming after step {len(history)} of {settings['max_steps']}", flush=True)

    @property
    def recorded(self) -> int:
        """The newest step with a row."""
        return len(self._history)

    def record(self, row: dict, samples: list[dict]) -> None:
        """One step; `row["tokens"]` counts this step's, what is recorded counts all so far."""
        row["tokens"] += self._history[-1]["tokens"] if self._history else 0
        kept = row["step"] in self._promised
        self._history.append(row)
        self._log.append(row, samples[: self._kept_completions] if kept or row["step"] == 1 else [])
        if kept:
            self.commit(row["step"])
        self._trackers.log(row)
        for warning in watch.warnings(self._history):
            print(f"WARNING: {warning}", flush=True)
        self._progress.advance(reward=row["reward"], kl=row["kl"] or 0.0)

    def commit(self, step: int) -> None:
        """Lists a step's checkpoint, which is on the disk, after all rows up to it are."""
        self._log.sync()
        self._folder.commit(step)
        self.saved = step

    def close(self) -> None:
        """At the end of a run."""
        self._log.close()
        self._trackers.close()
        self._folder.prune(self._promised)


def _write_checkpoint(learner: Learner, settings: Mapping, folder: runs.Run) -> float:
    """Adapters and optimizer state of the newest step, on the disk when this returns.

    Returns:
      the seconds that it took.

    Raises:
      PipelineError: they cannot be written; the checkpoints before stand.
    """
    step, trainer, started = learner.steps_done, learner.rl_cluster.actor_trainer, time.perf_counter()
    if not np.isfinite(float(optax.global_norm(nnx.state(trainer.model, models.trained(settings["lora"]))))):
        raise PipelineError(
            f"step {step}: its update made weights that are no numbers; training stopped, the last checkpoint stands. "
            "Lower training.learning_rate"
        )
    try:
        with errors.silent_stderr():
            trainer.checkpoint_manager.save(
                step * settings["num_iterations"],
                trainer.model,
                trainer.optimizer,
                save_only_lora_params=settings["lora"] is not None,
                force=True,
                custom_metadata={"global_step": step, "role": cluster_lib.Role.ACTOR.value},
            )
    except Exception as error:  # Orbax, TensorStore and the system each have their own
        system = re.search(r"([^:]+) \[os_error_code", str(error))  # at the end of TensorStore's long text
        reason = (system[1] if system else str(error) or type(error).__name__).strip().splitlines()[0][:200]
        raise PipelineError(
            f"{folder.checkpoint(step)}: the checkpoint of step {step} cannot be written ({reason}); the ones before "
            "stand. Free some space or make the folder writable, then run the same command again"
        ) from error
    return time.perf_counter() - started
