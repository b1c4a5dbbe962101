"""Whether a batch can fit at all, asked before anything is compiled (an estimate from below, never a false alarm), and
what a process has used in the end."""

import gc
import re
import resource
import sys
from pathlib import Path

import jax
import psutil
from jax.sharding import Mesh

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.generation.cache_size import cache_capacities
from gsm8k_grpo.models import building, log_probs

BYTES_PER_LOGIT = 4  # log-probs are taken in float32 whatever the weights' precision
BYTES_PER_ACTIVATION = 2  # at least (bfloat16)


def available_bytes(mesh: Mesh) -> int:
    """What the mesh's devices may use together: their own memory, or on a CPU what the machine and its limits leave."""
    statistics = [device.memory_stats() for device in mesh.local_devices]
    if all(known and "bytes_limit" in known for known in statistics):  # other hosts have the same devices
        return sum(known["bytes_limit"] for known in statistics) * mesh.size // len(statistics)
    limits = [psutil.virtual_memory().available]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.exists() and (limit := group.read_text().strip()).isdigit():
        limits.append(int(limit))
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min(limits)


def kv_cache_bytes(config: object, rows: int, tokens: int) -> int:
    """Keys and values of all layers for `rows` sequences of `tokens` positions; at least two bytes each (bfloat16)."""
    return rows * tokens * config.num_layers * config.num_kv_heads * config.head_dim * 2 * 2


def require_memory(needed_bytes: int, mesh: Mesh, what: str, keys: str) -> None:
    """Refuses a batch that needs more than there is.

    Raises:
      PipelineError: naming what is too large and the settings that make it smaller.
    """
    available = available_bytes(mesh)
    if needed_bytes > available:
        raise PipelineError(
            f"too little memory for {what}: at least {needed_bytes / 2**30:,.1f} GiB needed, "
            f"{available / 2**30:,.1f} GiB available; lower {keys}"
        )


def require_training(config: object, training: dict, max_prompt_tokens: int, mesh: Mesh) -> None:
    """Refuses a micro-batch of which the logits of a time, and what each layer begins with, alone do not fit."""
    sequences, limit = training["micro_batch_prompts"] * training["num_generations"], training["max_completion_tokens"]
    tokens = max_prompt_tokens + limit
    logits = min(sequences * limit * building.vocabulary_size(config), log_probs.LOGITS_AT_A_TIME)
    layers = sequences * limit * config.embed_dim * config.num_layers * BYTES_PER_ACTIVATION  # kept for the gradient
    require_memory(
        max(
            2 * logits * BYTES_PER_LOGIT + layers,
            kv_cache_bytes(config, sequences, max_prompt_tokens + cache_capacities(limit)[0]),
        ),
        mesh,
        f"a training micro-batch of {sequences} sequences of {tokens} tokens",
        "training.micro_batch_prompts, training.num_generations or training.max_completion_tokens",
    )


def require_evaluation(config: object, rows: int, max_prompt_tokens: int, completion_tokens: int, mesh: Mesh) -> None:
    """Refuses an evaluation batch whose KV cache and next logits alone do not fit."""
    logits = rows * building.vocabulary_size(config) * BYTES_PER_LOGIT
    cache = kv_cache_bytes(config, rows, max_prompt_tokens + cache_capacities(completion_tokens)[0])
    require_memory(
        logits + cache,
        mesh,
        f"an evaluation batch of {rows} rows",
        "evaluation.batch_size or evaluation.max_completion_tokens",
    )


def memory_used() -> dict[str, int | None]:
    """What this process holds and has used at most, in bytes.

    Returns:
      `held_bytes`: all arrays on this process's devices that are alive (of training: weights, adapters, reference,
      optimizer state), each buffer once; `device_peak_bytes`: the most that was in use on any one of its devices, or
      None where they don't count (a CPU); `host_peak_bytes`: the most that the process had resident, programs included.
    """
    gc.collect()  # models refer to themselves: without this, arrays that nothing uses any more would count
    shards = [shard.data for array in jax.live_arrays() for shard in array.addressable_shards]
    held = {(shard.device, shard.unsafe_buffer_pointer()): shard.nbytes for shard in shards if shard.nbytes}
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return {
        "held_bytes": sum(held.values()),
        "device_peak_bytes": None if None in peaks else max(peaks),
        "host_peak_bytes": _peak_resident_bytes(),
    }


def _peak_resident_bytes() -> int:
    """The most that this process had resident. (On Linux, getrusage counts in what its parent had when it began.)"""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
