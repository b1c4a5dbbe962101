"""Compiling one program for an accelerator that is not there."""

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

# `-O1` compiles some five times faster and sees memory within -40 to +16 % of what the default level does.
OPTIMIZATION_LEVELS = {"screen": "O1", "verdict": "UNKNOWN"}
# The CPU's compiler takes away what keeps activations from being kept after all: rematerialisation would save nothing.
CPU_COMPILER_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def devices(accelerator: Accelerator) -> list:
    """The chips to compile for, described by the TPU's compiler (or CPU devices, for an estimate).

    Raises:
      PipelineError: libtpu is not installed.
    """
    if accelerator.topology is None:
        return jax.devices("cpu")[: accelerator.chips]
    if importlib.util.find_spec("libtpu") is None:
        raise PipelineError(
            f"preflight.accelerator: {accelerator.name} needs the TPU's compiler (libtpu), which is not installed; "
            "`make setup PLATFORM=tpu` installs it (pip install --require-hashes -r envs/tpu.txt; no TPU is needed)"
        )
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name=accelerator.topology).devices)


def make_mesh(accelerator: Accelerator, fsdp: int, tp: int) -> Mesh:
    """As `models.make_mesh`, over the first fsdp × tp of the accelerator's chips."""
    return Mesh(np.array(devices(accelerator)[: fsdp * tp]).reshape(fsdp, tp), ("fsdp", "tp"))


def compile_program(programs: Programs, name: str, level: str) -> dict:
    """Lowers and compiles one program; says what it takes on each chip.

    Args:
      level: `screen` or `verdict`.

    Returns:
      what `results/README.md` lists for a program, but for the bounds; only `name`, `rows`, the known sizes,
      `needed_bytes` and `error` where the compiler found no room.
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
    lowered_after = time.monotonic()
    before = jax.config.jax_optimization_level
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
            "compile_seconds": round(time.monotonic() - lowered_after, 1),
        }
    finally:
        jax.config.update("jax_optimization_level", before)
    ended = time.monotonic()
    programs.compiled(name, program)
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    peak = memory.peak_memory_in_bytes
    if programs.on_cpu:  # its peak leaves temporaries out
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = kept + memory.temp_size_in_bytes
    needed = peak + memory.generated_code_size_in_bytes
    if name.endswith("decode"):
        needed = max(needed, memory.argument_size_in_bytes + programs.shorter_cache_bytes(name))
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
        "lower_seconds": round(lowered_after - started, 1),
        "compile_seconds": round(ended - lowered_after, 1),
    }


def needed_bytes(error: str) -> int:
    """What a program wanted, out of the compiler's text about exhausted memory; 0 where it says no number.

    The texts: `… HLO temporaries (16.23G) exceeds available HBM (15.75G)`, `Used 17.05G of 15.75G hbm`.
    """
    found = re.search(r"\(([0-9.]+)([KMGT])\) exceeds available|Used ([0-9.]+)([KMGT]) of", error)
    if not found:
        return 0
    number, unit = [group for group in found.groups() if group]
    return int(float(number) * 1024 ** ("KMGT".index(unit) + 1))
