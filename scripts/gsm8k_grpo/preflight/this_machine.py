"""Before training and evaluation: refuses a batch that cannot fit. (The stage `preflight` compiles instead, see
`programs`.) On a CPU the peak is known well enough to be said (`expected_memory`). Elsewhere the check counts less than
a batch really takes, so it never refuses one that would fit."""

import functools
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
from jax.sharding import Mesh

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.config.batch_sizes import micro_batch, rollout_batch, step_completions
from gsm8k_grpo.generation.cache_length import cache_capacities
from gsm8k_grpo.models import log_probs, matmul_order
from gsm8k_grpo.models.building import tunix_config, vocabulary_size
from gsm8k_grpo.preflight import expected_memory

BYTES_PER_LOGIT = 4  # log-probs are computed in float32, whatever the precision of the weights
BYTES_PER_ACTIVATION = 2  # the least: bfloat16
TOLERANCE = 1.2  # what is expected may be a fifth too much


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


def require_training_memory(manifest: Mapping, settings: Mapping, mesh: Mesh) -> None:
    """Refuses a training that does not fit; on a CPU, says what it will hold.

    Elsewhere it refuses a micro-batch whose logits and layer inputs, or a rollout whose KV cache, alone do not fit.

    Args:
      manifest: the base model's model.json.
      settings: the blocks prompt and training.
    """
    architecture, training_settings = manifest["architecture"], settings["training"]
    if matmul_order.on_cpu(mesh):
        parts_of = functools.partial(expected_memory.training_parts, architecture, manifest["dtype"])
        otherwise = "lower training.num_generations or training.max_completion_tokens"
        _require_expected("training", parts_of, settings, _smaller_updates(settings), otherwise, mesh)
        return
    config, limit = tunix_config(architecture), training_settings["max_completion_tokens"]
    completions, rollouts = micro_batch(training_settings), rollout_batch(training_settings)
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


def require_evaluation_memory(manifest: Mapping, settings: Mapping, prompts: int, mesh: Mesh) -> None:
    """Refuses an evaluation that does not fit; on a CPU, says what it will hold.

    Elsewhere it refuses a batch whose KV cache and next logits alone do not fit.

    Args:
      manifest: the base model's model.json.
      settings: the blocks prompt and evaluation.
      prompts: their number.
    """
    architecture, evaluation = manifest["architecture"], settings["evaluation"]
    if matmul_order.on_cpu(mesh):
        parts_of = functools.partial(expected_memory.evaluation_parts, architecture, manifest["dtype"], rows=prompts)
        otherwise = "lower evaluation.max_completion_tokens"
        _require_expected("evaluation", parts_of, settings, _smaller_batches(settings), otherwise, mesh)
        return
    config = tunix_config(architecture)
    rows, limit = min(evaluation["batch_size"], prompts), evaluation["max_completion_tokens"]
    logits = rows * vocabulary_size(config) * BYTES_PER_LOGIT
    cache = least_kv_cache_bytes(config, rows, settings["prompt"]["max_tokens"] + cache_capacities(limit)[0])
    require_memory(
        logits + cache,
        mesh,
        f"an evaluation batch of {rows} rows",
        "evaluation.batch_size or evaluation.max_completion_tokens",
    )


def _require_expected(
    stage: str,
    parts_of: Callable[[Mapping], dict[str, int]],
    settings: Mapping,
    smaller: Iterator[tuple[str, Mapping]],
    otherwise: str,
    mesh: Mesh,
) -> None:
    """Prints what a stage will hold, with a warning where that is more than there is; refuses what is far more.

    Args:
      parts_of: from settings to the bytes of each part.
      smaller: other settings with the same results but for rounding, largest first, and what to set for them.
      otherwise: what helps where none of them fits.
    """
    parts, available = parts_of(settings), available_bytes(mesh)
    expected = sum(parts.values())
    listed = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
    said = f"{stage} will hold at most about {size_text(expected)} ({listed}); {size_text(available)} are available"
    if expected <= available:
        print(said, flush=True)
        return
    fits = next((text for text, changed in smaller if sum(parts_of(changed).values()) <= available), None)
    advice = f"set {fits}" if fits else otherwise
    if expected > TOLERANCE * available:
        raise PipelineError(f"too little memory: {said}; {advice}")
    print(f"WARNING: perhaps too little memory: {said}; {advice}", flush=True)


def _smaller_updates(settings: Mapping) -> Iterator[tuple[str, Mapping]]:
    """The training's settings with fewer completions at a time: halves, quarters, …"""
    training, completions = settings["training"], step_completions(settings["training"])
    generations, size = training["num_generations"], micro_batch(training)
    while size % 2 == 0:
        size //= 2
        rollouts = max(size, generations)
        if not (size % generations and generations % size) and completions % rollouts == rollouts % generations == 0:
            changed = {"micro_batch_completions": size, "rollout_batch_completions": rollouts}
            yield (
                f"training.micro_batch_completions: {size} and training.rollout_batch_completions: {rollouts}",
                {**settings, "training": {**training, **changed}},
            )


def _smaller_batches(settings: Mapping) -> Iterator[tuple[str, Mapping]]:
    """The evaluation's settings with smaller batches: halves, quarters, …"""
    size = settings["evaluation"]["batch_size"]
    while size > 1:
        size //= 2
        changed = {**settings["evaluation"], "batch_size": size}
        yield f"evaluation.batch_size: {size}", {**settings, "evaluation": changed}
