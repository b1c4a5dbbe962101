"""What a process sets before it computes: memory behaviour, compilation cache, and what it reports of the machine."""

import ctypes
import os
import sys

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.internals import tunix_internals

# The setting `platform`. Snakemake's process sets it for all its stages (rules/common.smk) unless it is set already, to
# try an accelerator's settings on a machine without one. Without it, as by hand, a stage takes what JAX finds.
PLATFORM_VARIABLE = "GSM8K_GRPO_PLATFORM"
# For `return_large_buffers`: which models are large, and which of their buffers.
LARGE_FROM_PARAMETERS = 100_000_000
LARGE_BUFFER_BYTES = 4 * 2**20


def configure_jax() -> None:
    """Sets up JAX for this process; call it before the first computation.

    - Compiled programs are kept under `results/cache/jax`, so that the evaluations of a run's checkpoints share
      them, or where JAX's own JAX_COMPILATION_CACHE_DIR says.
    - Tunix's modules load without all that `import tunix` loads: see `tunix_internals.import_without_extras`.
    - Freed buffers stay in the process: XLA on the CPU allocates its temporaries anew at each step, and without this
      more than half of a small step went into the kernel's page faults.
    """
    _set_malloc(M_ARENA_MAX=1, M_MMAP_MAX=0, M_TRIM_THRESHOLD=2**31 - 1, M_TOP_PAD=256 * 2**20)
    tunix_internals.import_without_extras()
    import jax

    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.abspath("results/cache/jax")
    jax.config.update("jax_compilation_cache_dir", kept)
    # A stage has a hundred small programs; to read one takes a fifth of the time that it takes to compile it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def return_large_buffers() -> None:
    """From now on, the system gets a large buffer back as soon as it is freed. For large models on a CPU.

    In the heap, their buffers leave holes that the next ones do not fit into (docs/performance.md has the memory). The
    price is page faults for each new buffer, which the short programs of a small model would feel.
    """
    _set_malloc(M_MMAP_THRESHOLD=LARGE_BUFFER_BYTES, M_MMAP_MAX=2**16, M_TOP_PAD=2**20)


def _set_malloc(**options: int) -> None:
    """Sets options of glibc's malloc, by their names in <malloc.h>. Other C libraries have other ones, or none."""
    numbers = {"M_TRIM_THRESHOLD": -1, "M_TOP_PAD": -2, "M_MMAP_THRESHOLD": -3, "M_MMAP_MAX": -4, "M_ARENA_MAX": -8}
    if sys.platform == "linux":
        for name, value in options.items():
            ctypes.CDLL(None).mallopt(numbers[name], value)


def require_platform(found: str) -> None:
    """Ends a stage that would compute on another kind of device than the setting `platform` names.

    Without this, a stage whose JAX does not find the accelerator would compute on the host, for days.

    Args:
      found: JAX's name of the devices: cpu, gpu or tpu.

    Raises:
      PipelineError: the names differ.
    """
    found = {"gpu": "cuda"}.get(found, found)
    wanted = os.environ.get(PLATFORM_VARIABLE) or found
    if wanted == found:
        return
    if wanted == "cpu":
        way_out = "export JAX_PLATFORMS=cpu"
    elif chosen := os.environ.get("JAX_PLATFORMS"):
        way_out = f"unset JAX_PLATFORMS (it is {chosen})"
    else:
        way_out = f"run make setup PLATFORM={wanted} where there is such a device"
    raise PipelineError(
        f"platform: the setting is {wanted}, but JAX computes on {found} here; {way_out}, or set platform={found}"
    )


def join_processes() -> None:
    """Joins the processes of one run, one a host of a TPU slice; call it after `configure_jax`.

    Cloud TPU, SLURM and Kubernetes tell JAX who the others are. Elsewhere the environment does: JAX_COORDINATOR_ADDRESS
    (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    import jax

    count, index = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    jax.distributed.initialize(num_processes=int(count) if count else None, process_id=int(index) if index else None)


def is_lead_process() -> bool:
    """Whether this process writes what is written once; true where there is only one."""
    import jax

    return jax.process_index() == 0
