"""The memory that this process holds and has used."""

import gc
import re
import resource
import sys
from pathlib import Path

import jax


def memory_used() -> dict[str, int | None]:
    """What this process holds now and has used at most, in bytes.

    Returns:
      `held_bytes`: all live arrays on this process's devices, each buffer once (in training: weights, adapters,
      reference and optimizer state); `device_peak_bytes`: the largest peak of its devices, or None where they keep no
      count (a CPU); `host_peak_bytes`: the process's peak resident memory, with compiler and programs.
    """
    gc.collect()  # models refer to themselves: unused arrays stay alive until the collector runs
    shards = [shard.data for array in jax.live_arrays() for shard in array.addressable_shards]
    held = {(shard.device, shard.unsafe_buffer_pointer()): shard.nbytes for shard in shards if shard.nbytes}
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return {
        "held_bytes": sum(held.values()),
        "device_peak_bytes": None if None in peaks else max(peaks),
        "host_peak_bytes": peak_resident_bytes(),
    }


def peak_resident_bytes() -> int:
    """This process's peak resident memory. On Linux, getrusage would include its parent's from before exec."""
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
