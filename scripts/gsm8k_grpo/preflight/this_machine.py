"""Before training and evaluation: refuses a batch that cannot fit. (The stage `preflight` compiles instead, see
`programs`.) The check counts less than a batch really takes, so it never refuses one that would fit."""

import resource
from collections.abc import Mapping
from pathlib import Path

import psutil
from jax.sharding import Mesh

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.config.batch_sizes import micro_batch, rollout_batch
from gsm8k_grpo.generation.cache_length import cache_capacities
from gsm8k_grpo.models import log_probs
from gsm8k_grpo.models.building import tunix_config, vocabulary_size

BYTES_PER_LOGIT = 4  # log-probs are computed in float32, whatever the precision of the weights
BYTES_PER_ACTIVATION = 2  # the least: bfloat16


def available_bytes(mesh: Mesh) -> int:
    """Memory of all the mesh's devices; on a CPU, what the machine and the process's limits leave."""
    statistics = [device.memory_stats() for device in mesh.local_devices]
    if all(known and "bytes_limit" in known for known in statistics):  # other hosts have the same devices
        return sum(known["bytes_limit"] for known in statistics) * mesh.size // len(statistics)
    limits = [psutil.virtual_memory().available]
    cgroup_limit = Path("/sys/fs/cgroup/memory.max")
    if cgroup_limit.exists() and (limit := cgroup_limit.read_text().strip()).isdigit():
        limits.append(int(limit))
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min(limits)


def least_kv_cache_bytes(config: object, rows: int, tokens: int) -> int:
    """Keys and values of all layers for `rows` sequences of `tokens` positions, at two bytes a number (bfloat16)."""
    return rows * tokens * config.num_layers * config.num_kv_heads * config.head_dim * 2 * 2


def require_memory(needed_bytes: int, mesh: Mesh, purpose: str, settings_to_lower: str) -> None:
    """Checks that the mesh's devices have so much memory; if not, an error names the settings to lower."""
    available = available_bytes(mesh)
    if needed_bytes > available:
        raise PipelineError(
            f"too little memory for {purpose}: it needs at least {size_text(needed_bytes)}, {size_text(available)} are "
            f"available; lower {settings_to_lower}"
        )


def require_training_memory(architecture: Mapping | str, settings: Mapping, mesh: Mesh) -> None:
    """Refuses a micro-batch whose logits and layer inputs, or a rollout whose KV cache, alone do not fit."""
    config, training_settings = tunix_config(architecture), settings["training"]
    completions, rollouts = micro_batch(training_settings), rollout_batch(training_settings)
    limit = training_settings["max_completion_tokens"]
    logits = min(completions * limit * vocabulary_size(config), log_probs.LOGITS_AT_A_TIME)
    layer_inputs = completions * limit * config.embed_dim * config.num_layers  # kept for the gradient
    require_memory(
        2 * logits * BYTES_PER_LOGIT + layer_inputs * BYTES_PER_ACTIVATION,
        mesh,
        f"the gradient of {completions} completions of {limit} tokens",
        "training.micro_batch_completions or training.max_completion_tokens",
    )
    require_memory(
        least_kv_cache_bytes(config, rollouts, settings["prompt"]["max_tokens"] + cache_capacities(limit)[0]),
        mesh,
        f"the rollout of {rollouts} completions of {limit} tokens",
        "training.rollout_batch_completions, training.num_generations or training.max_completion_tokens",
    )


def require_evaluation_memory(config: object, settings: Mapping, prompts: int, mesh: Mesh) -> None:
    """Refuses an evaluation batch whose KV cache and next logits alone do not fit."""
    rows, limit = min(settings["evaluation"]["batch_size"], prompts), settings["evaluation"]["max_completion_tokens"]
    logits = rows * vocabulary_size(config) * BYTES_PER_LOGIT
    cache = least_kv_cache_bytes(config, rows, settings["prompt"]["max_tokens"] + cache_capacities(limit)[0])
    require_memory(
        logits + cache,
        mesh,
        f"an evaluation batch of {rows} rows",
        "evaluation.batch_size or evaluation.max_completion_tokens",
    )
