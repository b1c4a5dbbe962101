"""What a stage that runs a model requests from a cluster of computers, by its recipe's settings.

The rules import this module, so it does not import JAX.
"""

from collections.abc import Mapping

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.models import families, precision

MIB = 2**20
# Python, JAX with its compiler, a miniature and its batches: twice the most that tiny takes.
WITHOUT_WEIGHTS_MIB = 4096


def tpu_slice(settings: Mapping) -> str:
    """The TPU slice of a recipe (`preflight.accelerator`), or "" where `platform` is not tpu.

    Raises:
      PipelineError: the accelerator is no TPU.
    """
    if settings["platform"] != "tpu":
        return ""
    name = settings["preflight"]["accelerator"]
    if ACCELERATORS[name].estimated:
        raise PipelineError(
            f"platform: tpu, but preflight.accelerator is {name}, no TPU; name the slice, such as v5e-8"
        )
    return name


def generic_resources(settings: Mapping) -> str:
    """Accelerators as SLURM's generic resources: `tpu:8` (the whole slice), `gpu:1` (the mesh's devices), or ""."""
    if settings["platform"] == "cuda":
        return f"gpu:{settings['mesh']['fsdp'] * settings['mesh']['tp']}"
    name = tpu_slice(settings)
    return f"tpu:{ACCELERATORS[name].chips}" if name else ""


def host_memory_mib(settings: Mapping) -> int:
    """Host memory for a stage: the weights in float32 and in `model.dtype`, and what every stage needs.

    This is a generous bound: benchmarks/memory.py measures what a conversion and a load really take.
    """
    parameters = families.approximate_parameters(settings["model"]["architecture"])
    width = precision.widest_bytes(settings["model"]["dtype"])
    return WITHOUT_WEIGHTS_MIB + parameters * (precision.WIDTH_BYTES["float32"] + width) // MIB


RESOURCES = {"gres": generic_resources, "mem_mb": host_memory_mib, "tpu_slice": tpu_slice}
