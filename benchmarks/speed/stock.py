"""Contestant `stock`: Google Tunix as released, with its own learner and sampler (forced.py adds the lengths)."""

import time
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx
from forced import stock_sampler
from jax.sharding import Mesh
from tunix.generate import sampler as sampler_lib
from tunix.models.gemma import model as gemma
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout
from turns import Turns
from workloads import BETA, LEARNING_RATE, LORA_RANK, MAX_GRADIENT_NORM, STOP, Tokenizer, Workload, reward

Role = rl_cluster.Role
MODULES = "|".join(
    f".*{name}" for name in ("q_einsum", "kv_einsum", "attn_vec_einsum", "gate_proj", "up_proj", "down_proj")
)


def step(workload: Workload, turns: Turns) -> None:
    """Makes GRPO steps by `GRPOLearner.train` over batches that wait for their turn."""
    mesh = _mesh()
    reference = _model(workload)
    provider = qwix.LoraProvider(module_path=MODULES, rank=LORA_RANK, alpha=float(LORA_RANK))
    with mesh:
        policy = qwix.apply_lora_to_model(reference, provider, **reference.get_model_input(), rngs=nnx.Rngs(0))
    optimizer = optax.chain(optax.clip_by_global_norm(MAX_GRADIENT_NORM), optax.adamw(LEARNING_RATE))
    config = rl_cluster.ClusterConfig(
        role_to_mesh={role: mesh for role in (Role.ACTOR, Role.REFERENCE, Role.ROLLOUT)},
        rollout_engine="vanilla",
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optimizer, eval_every_n_steps=turns.steps + 1, max_steps=turns.steps + 1
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=workload.limit_tokens,
            max_prompt_length=workload.prompt_tokens,
            kv_cache_size=_cache_tokens(workload),
            temperature=1.0,
            top_p=1.0,
            eos_tokens=[STOP],
        ),
    )
    with mock.patch.object(sampler_lib, "Sampler", stock_sampler(workload)):
        cluster = rl_cluster.RLCluster(actor=policy, reference=reference, tokenizer=Tokenizer(), cluster_config=config)
    algorithm = grpo_learner.GRPOConfig(num_generations=workload.generations, num_iterations=1, beta=BETA)
    learner = grpo_learner.GRPOLearner(rl_cluster=cluster, algo_config=algorithm, reward_fns=reward)

    def timed(phase: str, method: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            started = time.perf_counter()
            output = method(*arguments, **options)
            jax.block_until_ready((output, nnx.state(cluster.actor_trainer.model, nnx.LoRAParam)))
            turns.phase(phase, time.perf_counter() - started)
            return output

        return call

    lengths = []

    def generate(*arguments: object, **options: object) -> base_rollout.RolloutOutput:
        output = rl_cluster.RLCluster.generate(cluster, *arguments, **options)
        lengths[:] = _lengths(output.tokens, workload.limit_tokens)
        return output

    cluster.generate = timed("rollout", generate)
    cluster.get_ref_per_token_logps = timed("reference", cluster.get_ref_per_token_logps)
    cluster.update_actor = timed("update", cluster.update_actor)

    def batches() -> Iterator[dict]:
        for forced in turns:
            cluster.rollout._sampler.lengths = forced
            yield {"prompts": np.array(workload.prompt_texts())}
            turns.done(lengths)  # Tunix asks for the next batch when its step is over

    learner.train(batches())


def generation(workload: Workload, turns: Turns) -> None:
    """Completes one batch greedily by Tunix's `Sampler`."""
    sampler = stock_sampler(workload)(
        _model(workload),
        Tokenizer(),
        sampler_lib.CacheConfig(_cache_tokens(workload), workload.num_layers, workload.num_kv_heads, workload.head_dim),
    )
    for forced in turns:
        sampler.lengths = forced
        output = sampler(
            workload.prompt_texts(),
            max_generation_steps=workload.limit_tokens,
            max_prompt_length=workload.prompt_tokens,
            eos_tokens=[STOP],
        )
        turns.done(_lengths(output.tokens, workload.limit_tokens))


def _model(workload: Workload) -> nnx.Module:
    """Tunix's Gemma 2 with random weights. (Tunix itself initialises feed-forward kernels with zeros.)"""
    local, whole = gemma.AttentionType.LOCAL_SLIDING, gemma.AttentionType.GLOBAL
    config = gemma.ModelConfig(
        num_layers=workload.num_layers,
        num_embed=workload.vocabulary_size,
        embed_dim=workload.embed_dim,
        hidden_dim=workload.hidden_dim,
        num_heads=workload.num_heads,
        head_dim=workload.head_dim,
        num_kv_heads=workload.num_kv_heads,
        sliding_window_size=workload.window_tokens,
        attention_types=((local, whole) * workload.num_layers)[: workload.num_layers],
        final_logit_softcap=30.0,
        attn_logits_soft_cap=50.0,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
    )
    model = gemma.Gemma(config, rngs=nnx.Rngs(0))
    state = nnx.state(model)
    for index, (_, variable) in enumerate(nnx.to_flat_state(state)):
        if len(variable.shape) >= 2:
            key = jax.random.key(index)
            variable[...] = 0.02 * jax.random.normal(key, variable.shape, jnp.float32)
    nnx.update(model, jax.device_put(state, nnx.get_named_sharding(state, _mesh())))
    return model


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))


def _cache_tokens(workload: Workload) -> int:
    return -(-(workload.prompt_tokens + workload.limit_tokens) // 8) * 8


def _lengths(tokens: list[np.ndarray], limit_tokens: int) -> list[int]:
    """Lengths with the stop token, which Tunix cuts off."""
    return [min(len(row) + 1, limit_tokens) for row in tokens]
