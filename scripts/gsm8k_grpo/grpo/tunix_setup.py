"""Everything that training configures in Tunix: the RL cluster and the algorithm."""

import dataclasses
import functools
from collections.abc import Mapping

import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers
from tunix.rl.grpo import grpo_learner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout import base_rollout

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.batch_sizes import rollout_batch
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.grpo.loss import LOSS
from gsm8k_grpo.grpo.optimizer import make_optimizer
from gsm8k_grpo.grpo.rollout import SeededRollout
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.internals import tunix_internals


def rl_cluster_config(
    mesh: Mesh,
    training_settings: Mapping,
    max_prompt_tokens: int,
    stop_ids: tuple[int, ...],
    seed: int,
    checkpoints: str | None,
    gather_weights: bool,
    base: nnx.Module | None = None,
) -> ClusterConfig:
    """Tunix's configuration of trainer and rollout; `checkpoints` is their folder, or None without any.

    `base` makes rollouts where training samples from it; else None.
    """
    return ClusterConfig(
        role_to_mesh={role: mesh for role in (Role.ACTOR, Role.REFERENCE, Role.ROLLOUT)},
        rollout_engine=functools.partial(
            SeededRollout,
            seed=seed,
            generations=training_settings["num_generations"],
            gather_weights=gather_weights,
            lora=training_settings["lora"],
            slots=rollout_batch(training_settings),
            base=base,
        ),
        training_config=RLTrainingConfig(
            actor_optimizer=make_optimizer(training_settings),
            eval_every_n_steps=training_settings["max_steps"] + 1,
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
    base: nnx.Module | None = None,
) -> RLCluster:
    """Tunix's RL cluster: policy, reference and rollout on one mesh, restored to the run's newest checkpoint.

    Args:
      policy: the model to train, with adapters or without.
      reference: the frozen model of the KL penalty, or None without one.
      training_settings: the block `training`.
      stop_ids: the tokens that end a completion.
      run: the run's folder, prepared by `Run.resume`.
      gather_weights: as in `Sampler`.
      base: the model without adapters, where training samples from it; else None.

    Raises:
      PipelineError: the checkpoint's hash is right, but Tunix cannot restore it.
    """
    checkpoints = str(run.checkpoints.absolute())
    config = rl_cluster_config(
        mesh, training_settings, max_prompt_tokens, stop_ids, seed, checkpoints, gather_weights, base
    )
    try:
        rl_cluster = RLCluster(actor=policy, reference=reference, tokenizer=tokenizer, cluster_config=config)
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0][:120]
        raise PipelineError(
            f"{run.checkpoints}: the newest checkpoint cannot be restored ({reason}); move {run.folder} away to train "
            "from the start"
        ) from error
    tunix_internals.drop_anchor_policy(rl_cluster)
    return rl_cluster


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
