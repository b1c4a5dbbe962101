"""What a stage that runs a model asks a cluster for, out of the recipe's settings. No JAX here: the rules ask too."""

from collections.abc import Mapping

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.models import families

MIB = 2**20
# Python, JAX and its compiler, a miniature and its batches. Seen: up to 1.9 GiB (tiny).
WITHOUT_WEIGHTS_MIB = 4096


def tpu_slice(chosen: Mapping) -> str:
    """The TPU slice that a recipe is for (`preflight.accelerator`), or "" where `platform` is not tpu.

    Raises:
      PipelineError: the accelerator is no TPU.
    """
    if chosen["platform"] != "tpu":
        return ""
    name = chosen["preflight"]["accelerator"]
    if ACCELERATORS[name].estimated:
        raise PipelineError(
            f"platform: tpu, but preflight.accelerator is {name}, no TPU; name the slice, such as v5e-8"
        )
    return name


def generic_resources(chosen: Mapping) -> str:
    """Accelerators as SLURM's generic resources: `tpu:8` (all of the slice), `gpu:1` (those of the mesh), or ""."""
    if chosen["platform"] == "cuda":
        return f"gpu:{chosen['mesh']['fsdp'] * chosen['mesh']['tp']}"
    name = tpu_slice(chosen)
    return f"tpu:{ACCELERATORS[name].chips}" if name else ""


def host_memory_mib(chosen: Mapping) -> int:
    """Memory of the host that a stage may take: the weights in float32 and in `model.dtype`, and what all stages take.

    Above what was seen: 12.4 GiB to convert Gemma 2 2B in bfloat16, 9.6 to load it (benchmarks/memory.py); here 18.6.
    """
    parameters = families.approximate_parameters(chosen["model"]["architecture"])
    width = {"float32": 4, "bfloat16": 2}[chosen["model"]["dtype"]]
    return WITHOUT_WEIGHTS_MIB + parameters * (4 + width) // MIB


RESOURCES = {"gres": generic_resources, "mem_mb": host_memory_mib, "tpu_slice": tpu_slice}
