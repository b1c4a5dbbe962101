"""Compiles one program for an accelerator that this machine does not have."""

import importlib.util
import re
import time

import jax
import numpy as np
from jax.sharding import Mesh

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.accelerators import Accelerator
from gsm8k_grpo.preflight.collectives import count_collectives
from gsm8k_grpo.preflight.programs import Programs

# XLA's level O1 compiles several times faster than its default, but its memory figures are less exact.
OPTIMIZATION_LEVELS = {"screen": "O1", "verdict": "UNKNOWN"}
# XLA's CPU compiler undoes rematerialisation; we disable that pass.
CPU_COMPILER_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def devices(accelerator: Accelerator) -> list:
    """Descriptions of the chips to compile for; CPU devices where the accelerator is estimated.

    Raises:
      PipelineError: libtpu is not installed.
    """
    if accelerator.topology is None:
        return jax.devices("cpu")[: accelerator.chips]
    if importlib.util.find_spec("libtpu") is None:
        raise PipelineError(
            f"preflight.accelerator: {accelerator.name} needs the TPU's compiler (libtpu), which is not installed; "
            "install it with `make setup PLATFORM=tpu` (pip install --require-hashes -r envs/tpu.txt; no TPU is needed)"
        )
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name=accelerator.topology).devices)


def make_mesh(accelerator: Accelerator, fsdp: int, tp: int) -> Mesh:
    """The mesh that `models.mesh.make_mesh` makes, over the first fsdp × tp chips of the accelerator."""
    return Mesh(np.array(devices(accelerator)[: fsdp * tp]).reshape(fsdp, tp), ("fsdp", "tp"))


def compile_program(programs: Programs, name: str, level: str) -> dict:
    """Compiles one program and measures what it needs on each chip.

    Args:
      level: `screen` or `verdict`.

    Returns:
      the keys that results/README.md lists for a program, without its bounds. Where the compiler runs out of the chip's
      memory, only the sizes that are known beforehand, `needed_bytes` and `error`.
    """
    started = time.monotonic()
    record = {
        "name": name,
        "rows": programs.rows(name),
        "kv_cache_bytes": programs.kv_cache_bytes(name),
        "resident_bytes": programs.resident_bytes(name),
        "read_bytes": programs.read_bytes(name),
    }
    lowered = programs.lower(name)
    compilation_started = time.monotonic()
    level_before = jax.config.jax_optimization_level
    jax.config.update("jax_optimization_level", OPTIMIZATION_LEVELS[level])
    try:
        program = lowered.compile(CPU_COMPILER_OPTIONS if programs.on_cpu else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {
            **record,
            "needed_bytes": needed_bytes(str(error)) + record["resident_bytes"],
            "error": str(error).splitlines()[0],
            "compile_seconds": round(time.monotonic() - compilation_started, 1),
        }
    finally:
        jax.config.update("jax_optimization_level", level_before)
    ended = time.monotonic()
    programs.note_output_shardings(name, program)
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    peak = memory.peak_memory_in_bytes
    if programs.on_cpu:  # the CPU compiler's peak leaves out temporaries
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = kept + memory.temp_size_in_bytes
    needed = peak + memory.generated_code_size_in_bytes
    if name.endswith("decode"):
        needed = max(needed, memory.argument_size_in_bytes + programs.first_cache_bytes(name))
    return {
        **record,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "peak_bytes": peak,
        "needed_bytes": needed + record["resident_bytes"],
        "flops": cost.get("flops", 0.0),
        "bytes_accessed": cost.get("bytes accessed", 0.0),
        "collectives": count_collectives(program.as_text()),
        "lower_seconds": round(compilation_started - started, 1),
        "compile_seconds": round(ended - compilation_started, 1),
    }


def needed_bytes(error: str) -> int:
    """The memory that a program needs according to the compiler's error; 0 where the error gives no number.

    The errors say `HLO temporaries (16.23G) exceeds available HBM (15.75G)` or `Used 17.05G of 15.75G hbm`.
    """
    match = re.search(r"\(([0-9.]+)([KMGT])\) exceeds available|Used ([0-9.]+)([KMGT]) of", error)
    if not match:
        return 0
    number, unit = [group for group in match.groups() if group]
    return int(float(number) * 1024 ** ("KMGT".index(unit) + 1))
