"""How training is wired to Tunix: the RL cluster, the algorithm's configuration and the training step."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl import trainer as rl_trainer
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.generation.cache_size import cache_tokens
from gsm8k_grpo.grpo.loss import LOSS, TrainExample, policy_loss
from gsm8k_grpo.grpo.optimizer import make_optimizer
from gsm8k_grpo.grpo.rollout import SeededRollout
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.models import building, matmul_order


def rl_cluster_config(
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
            SeededRollout,
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
            kv_cache_size=cache_tokens(max_prompt_tokens, settings["max_completion_tokens"]),
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            top_k=settings["top_k"],
            eos_tokens=list(stop_ids),
        ),
    )


def make_rl_cluster(
    policy: nnx.Module,
    reference: nnx.Module | None,
    tokenizer: object,
    mesh: Mesh,
    settings: Mapping,
    max_prompt_tokens: int,
    stop_ids: tuple[int, ...],
    seed: int,
    run: Run,
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
    config = rl_cluster_config(
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
        policy_loss_fn=LOSS,
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

    def loss(model: nnx.Module, train_example: TrainExample) -> tuple:
        return policy_loss(model, train_example, algo_config=config, pad_id=pad_id)

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
        step = matmul_order.with_smaller_operand_first(self._step) if for_cpu else self._step
        self.jitted_fn = jax.jit(step, donate_argnums=4)

    def lower(self, example: TrainExample) -> jax.stages.Lowered:
        """The program for such a micro-batch."""
        return self.jitted_fn.lower(*self._arguments, example)

    def __call__(self, example: TrainExample) -> tuple:
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
        example: TrainExample,
    ) -> tuple:
        model, optimizer = nnx.merge(graph, trained, frozen), nnx.merge(optimizer_graph, optimizer)
        if self._remat:
            building.rematerialise_layers(model)
        figures = self._trainer._train_step(model, optimizer, example)
        return figures, nnx.state(model, self._trainer.optimizer.wrt), nnx.state(optimizer)
