"""Everything that training configures in Tunix: the RL cluster, the algorithm and the training step."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers
from tunix.rl import trainer as rl_trainer
from tunix.rl.grpo import grpo_learner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout import base_rollout

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.grpo.loss import LOSS, TrainExample, policy_loss
from gsm8k_grpo.grpo.optimizer import make_optimizer
from gsm8k_grpo.grpo.rollout import SeededRollout
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.internals import tunix_internals
from gsm8k_grpo.models import building, matmul_order


def rl_cluster_config(
    mesh: Mesh,
    training_settings: Mapping,
    max_prompt_tokens: int,
    stop_ids: tuple[int, ...],
    seed: int,
    checkpoints: str | None,
    gather_weights: bool,
) -> ClusterConfig:
    """Tunix's configuration of trainer and rollout; `checkpoints` is their folder, or None without any."""
    return ClusterConfig(
        role_to_mesh={role: mesh for role in (Role.ACTOR, Role.REFERENCE, Role.ROLLOUT)},
        rollout_engine=functools.partial(
            SeededRollout,
            seed=seed,
            generations=training_settings["num_generations"],
            gather_weights=gather_weights,
            lora=training_settings["lora"],
        ),
        training_config=RLTrainingConfig(
            actor_optimizer=make_optimizer(training_settings),
            eval_every_n_steps=training_settings["max_steps"] + 1,
            mini_batch_size=training_settings["prompts_per_step"],
            train_micro_batch_size=training_settings["micro_batch_prompts"],
            rollout_micro_batch_size=training_settings["micro_batch_prompts"],
            compute_logps_micro_batch_size=training_settings["micro_batch_prompts"],
            checkpoint_root_directory=checkpoints,
            checkpointing_options=ocp.CheckpointManagerOptions(
                # By itself, Tunix would save in the middle of a step, every 180 s, and keep the newest 3. We save
                # whole steps instead (recorder.write_checkpoint) and keep them all.
                save_decision_policy=checkpoint_managers.SpecificStepsPolicy(steps=[]),
                max_to_keep=None,
                enable_async_checkpointing=False,
            ),
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=training_settings["max_completion_tokens"],
            max_prompt_length=max_prompt_tokens,
            kv_cache_size=cache_tokens(max_prompt_tokens, training_settings["max_completion_tokens"]),
            temperature=training_settings["temperature"],
            top_p=training_settings["top_p"],
            top_k=training_settings["top_k"],
            eos_tokens=list(stop_ids),
        ),
    )


def make_rl_cluster(
    policy: nnx.Module,
    reference: nnx.Module | None,
    tokenizer: object,
    mesh: Mesh,
    training_settings: Mapping,
    max_prompt_tokens: int,
    stop_ids: tuple[int, ...],
    seed: int,
    run: Run,
    gather_weights: bool = True,
) -> RLCluster:
    """Tunix's RL cluster: policy, reference and rollout on one mesh, restored to the run's newest checkpoint.

    Args:
      policy: the model to train, with adapters or without.
      reference: the frozen model of the KL penalty, or None without one.
      training_settings: the block `training`.
      stop_ids: the tokens that end a completion.
      run: the run's folder, prepared by `Run.resume`.
      gather_weights: as in `Sampler`.

    Raises:
      PipelineError: the checkpoint's hash is right, but Tunix cannot restore it.
    """
    config = rl_cluster_config(
        mesh, training_settings, max_prompt_tokens, stop_ids, seed, str(run.checkpoints.absolute()), gather_weights
    )
    try:
        return RLCluster(actor=policy, reference=reference, tokenizer=tokenizer, cluster_config=config)
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0][:120]
        raise PipelineError(
            f"{run.checkpoints}: the newest checkpoint cannot be restored ({reason}); move {run.folder} away to train "
            "from the start"
        ) from error


@dataclasses.dataclass(kw_only=True)
class GrpoConfig(grpo_learner.GRPOConfig):
    """Tunix's configuration, with a field that its loss reads and its class lacks."""

    epsilon_high: float


def grpo_config(training_settings: Mapping) -> GrpoConfig:
    """Tunix's configuration of the algorithm, from the block `training`."""
    config = GrpoConfig(
        policy_loss_fn=LOSS,
        num_generations=training_settings["num_generations"],
        num_iterations=training_settings["num_iterations"],
        beta=training_settings["beta"],
        kl_loss_mode=training_settings["kl_estimator"],
        epsilon=training_settings["epsilon"],
        epsilon_high=training_settings["epsilon_high"] or training_settings["epsilon"],
    )
    config.temperature = training_settings["temperature"]
    return config


def set_loss(trainer: rl_trainer.Trainer, config: GrpoConfig, pad_id: int, remat: bool, for_cpu: bool) -> None:
    """Makes Tunix's trainer minimise our loss, by `TrainStep`. Training and its preflight both call this."""

    def loss(model: nnx.Module, train_example: TrainExample) -> tuple:
        return policy_loss(model, train_example, algo_config=config, pad_id=pad_id)

    trainer.with_loss_fn(loss, has_aux=True)
    trainer.with_gen_model_input_fn(lambda example: {"train_example": example})
    # A partial, because Tunix's trainer reads `train_step.func.jitted_fn`.
    tunix_internals.set_train_step(trainer, functools.partial(TrainStep(trainer, remat, for_cpu)))


class TrainStep:
    """Tunix's training step as a program that returns only what it changes.

    Tunix compiles the step with `nnx.jit`. That program returns all weights of the model, also the frozen ones, of
    which memory then holds a second copy.
    """

    def __init__(self, trainer: rl_trainer.Trainer, remat: bool, for_cpu: bool):
        """
        Args:
          trainer: must keep its model and optimizer objects after the first call; their values may change.
          remat: whether the backward pass computes activations again. The model outside this program stays as it is,
            because nnx cannot rematerialise in the loop that decodes.
          for_cpu: whether products get the operand order that is fast on a CPU.
        """
        self._trainer, self._remat = trainer, remat
        step = matmul_order.with_smaller_operand_first(self._step) if for_cpu else self._step
        self.jitted_fn = jax.jit(step, donate_argnums=4)

    def lower(self, example: TrainExample) -> jax.stages.Lowered:
        """The program for micro-batches of this shape."""
        return self.jitted_fn.lower(*self._arguments, example)

    def __call__(self, example: TrainExample) -> tuple:
        """Updates the trainer's model and optimizer, and returns what Tunix's step does: (loss, metrics, norm)."""
        metrics, trained, optimizer = self.jitted_fn(*self._arguments, example)
        nnx.update(self._trainer.model, trained)
        nnx.update(self._trainer.optimizer, optimizer)
        return metrics

    @functools.cached_property
    def _arguments(self) -> tuple:
        """Model and optimizer in parts. They share their variables, so they are up to date at each call."""
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
        example: TrainExample,
    ) -> tuple:
        model, optimizer = nnx.merge(graph, trained, frozen), nnx.merge(optimizer_graph, optimizer)
        if self._remat:
            building.rematerialise_layers(model)
        metrics = tunix_internals.run_train_step(self._trainer, model, optimizer, example)
        return metrics, nnx.state(model, self._trainer.optimizer.wrt), nnx.state(optimizer)
