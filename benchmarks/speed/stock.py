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
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout
from turns import Turns
from workloads import BETA, LEARNING_RATE, MAX_GRADIENT_NORM, Tokenizer, Workload, reward

Role = rl_cluster.Role
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
MODULES = {
    "gemma2": ("q_einsum", "kv_einsum", "attn_vec_einsum", *FEED_FORWARD),
    "qwen2": ("q_proj", "k_proj", "v_proj", "o_proj", *FEED_FORWARD),
}
ROWS = 16  # a batch of `answers`


def step(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Makes GRPO steps by `GRPOLearner.train` over batches that wait for their turn."""
    mesh = _mesh()
    reference = _model(workload)
    modules = "|".join(f".*{name}" for name in MODULES[workload.family])
    provider = qwix.LoraProvider(module_path=modules, rank=workload.lora_rank, alpha=float(workload.lora_rank))
    with mesh:
        policy = qwix.apply_lora_to_model(reference, provider, **reference.get_model_input(), rngs=nnx.Rngs(0))
    optimizer = optax.chain(optax.clip_by_global_norm(MAX_GRADIENT_NORM), optax.adamw(LEARNING_RATE))
    config = rl_cluster.ClusterConfig(
        role_to_mesh={role: mesh for role in (Role.ACTOR, Role.REFERENCE, Role.ROLLOUT)},
        rollout_engine="vanilla",
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optimizer,
            eval_every_n_steps=turns.steps + 1,
            max_steps=turns.steps + 1,
            mini_batch_size=workload.micro_batch_prompts and workload.prompts,
            train_micro_batch_size=workload.micro_batch_prompts,
            rollout_micro_batch_size=workload.micro_batch_prompts and workload.prompts,
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=workload.limit_tokens,
            max_prompt_length=workload.prompt_tokens,
            kv_cache_size=_cache_tokens(workload),
            temperature=1.0,
            top_p=1.0,
            eos_tokens=[workload.stop],
        ),
    )
    with mock.patch.object(sampler_lib, "Sampler", stock_sampler(workload)):
        cluster = rl_cluster.RLCluster(
            actor=policy, reference=reference, tokenizer=Tokenizer(workload), cluster_config=config
        )
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
        lengths.extend(_lengths(output.tokens, workload.limit_tokens))
        return output

    cluster.generate = timed("rollout", generate)
    cluster.get_ref_per_token_logps = timed("reference", cluster.get_ref_per_token_logps)
    cluster.update_actor = timed("update", cluster.update_actor)

    def batches() -> Iterator[dict]:
        for forced in turns:
            cluster.rollout._sampler.lengths = forced
            lengths.clear()
            yield {"prompts": np.array(workload.prompt_texts())}
            turns.done(lengths)  # Tunix asks for the next batch when its step is over

    learner.train(batches())


def generation(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Completes one batch greedily by Tunix's `Sampler`."""
    sampler = _sampler(stock_sampler(workload), _model(workload), workload)
    for forced in turns:
        sampler.lengths = forced
        turns.done(_complete(sampler, workload.prompt_texts(), workload))


def answers(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Completes prompts greedily by Tunix's `Sampler`, in batches; the last one is filled up."""
    model = _model(workload)
    sampler = _sampler(sampler_lib.Sampler, model, workload)
    rows = min(ROWS, workload.prompts)
    weights = jax.tree.leaves(nnx.state(model))
    turns.facts |= {"rows": rows, "weight_bytes": sum(leaf.nbytes for leaf in weights)}
    for count in turns:
        texts, lengths = sorted(workload.prompt_texts()[:count], key=len), []
        for start in range(0, count, rows):
            batch = texts[start : start + rows]
            filled = batch + [batch[-1]] * (rows - len(batch))
            lengths += _complete(sampler, filled, workload)[: len(batch)]
        turns.done(lengths)


def _sampler(kind: type, model: nnx.Module, workload: Workload) -> sampler_lib.Sampler:
    return kind(
        model,
        Tokenizer(workload),
        sampler_lib.CacheConfig(_cache_tokens(workload), workload.num_layers, workload.num_kv_heads, workload.head_dim),
    )


def _complete(sampler: sampler_lib.Sampler, texts: list[str], workload: Workload) -> list[int]:
    output = sampler(
        texts,
        max_generation_steps=workload.limit_tokens,
        max_prompt_length=workload.prompt_tokens,
        eos_tokens=[workload.stop],
    )
    return _lengths(output.tokens, workload.limit_tokens)


def _model(workload: Workload) -> nnx.Module:
    """Tunix's model in float32, with published weights or random ones. (Tunix initialises some kernels with zeros.)"""
    if workload.weights:
        config = _qwen2_config(workload)
        return qwen2_params.create_model_from_safe_tensors(workload.weights, config, _mesh(), jnp.float32)
    if workload.family == "gemma2":
        model = gemma.Gemma(_gemma2_config(workload), rngs=nnx.Rngs(0))
    else:
        model = qwen2.Qwen2(_qwen2_config(workload), rngs=nnx.Rngs(0))
    state = nnx.state(model)
    for index, (_, variable) in enumerate(nnx.to_flat_state(state)):
        if len(variable.shape) >= 2:
            key = jax.random.key(index)
            variable[...] = 0.02 * jax.random.normal(key, variable.shape, jnp.float32)
    nnx.update(model, jax.device_put(state, nnx.get_named_sharding(state, _mesh())))
    return model


def _gemma2_config(workload: Workload) -> gemma.ModelConfig:
    local, whole = gemma.AttentionType.LOCAL_SLIDING, gemma.AttentionType.GLOBAL
    return gemma.ModelConfig(
        **_sizes(workload),
        num_embed=workload.vocabulary_size,
        sliding_window_size=workload.window_tokens,
        attention_types=((local, whole) * workload.num_layers)[: workload.num_layers],
        final_logit_softcap=30.0,
        attn_logits_soft_cap=50.0,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
    )


def _qwen2_config(workload: Workload) -> qwen2.ModelConfig:
    return qwen2.ModelConfig(
        **_sizes(workload),
        vocab_size=workload.vocabulary_size,
        norm_eps=1e-6,
        rope_theta=1_000_000,
        use_tied_embedding=True,
    )


def _sizes(workload: Workload) -> dict:
    """What both families' configurations call by the same names."""
    names = ("num_layers", "embed_dim", "hidden_dim", "num_heads", "head_dim", "num_kv_heads")
    return {name: getattr(workload, name) for name in names}


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))


def _cache_tokens(workload: Workload) -> int:
    return -(-(workload.prompt_tokens + workload.limit_tokens) // 8) * 8


def _lengths(tokens: list[np.ndarray], limit_tokens: int) -> list[int]:
    """Lengths with the stop token, which Tunix cuts off."""
    return [min(len(row) + 1, limit_tokens) for row in tokens]
