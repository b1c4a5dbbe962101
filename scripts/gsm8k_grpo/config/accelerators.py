"""The accelerators that a preflight knows by name: what a chip has, and what to compile for.

TPUs: cloud.google.com/tpu/docs/{v5e,v6e,v5p} give peak compute, HBM bandwidth and bidirectional interconnect of a chip.
The usable HBM is what the TPU's compiler offers (libtpu 0.0.42: 15.75, 31.25 and 95.74 GiB); it reserves the rest. TPUs
multiply float32 matrices in bfloat16 passes, in one pass at JAX's default precision, so one peak stands for both.

GPUs: NVIDIA's data sheets (T4, A100 80 GB SXM, H100 SXM) and its paper on the Ada architecture (RTX 4090). Peaks are of
dense matrices with float32 accumulation, and of TF32 for float32 (XLA's default). The T4 has neither TF32 nor bfloat16,
which it computes in float32. The usable memory is JAX's default
share, three quarters of the card's (XLA_PYTHON_CLIENT_MEM_FRACTION).
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A machine.

    Attributes:
      name: its name in settings.
      chips: how many devices JAX sees.
      topology: the compiler's name of the slice; None where programs are compiled for the CPU instead, as an estimate.
      usable_hbm_bytes: of one chip.
      peak_flops: FLOP/s of one chip by precision.
      hbm_bytes_per_second: of one chip.
      interconnect_bytes_per_second: of one chip, both directions; None for one chip alone.
    """

    name: str
    chips: int
    topology: str | None
    usable_hbm_bytes: int
    peak_flops: dict[str, float]
    hbm_bytes_per_second: float
    interconnect_bytes_per_second: float | None

    @property
    def estimated(self) -> bool:
        """Whether the CPU's compiler stands in for its own."""
        return self.topology is None


def _tpu(name: str, chips: int, topology: str, usable_gib: float, tflops: float, hbm: float, ici: float) -> Accelerator:
    peaks = {"float32": tflops * 1e12, "bfloat16": tflops * 1e12}
    return Accelerator(name, chips, topology, int(usable_gib * GIB), peaks, hbm * 1e9, ici * 1e9)


def _gpu(name: str, memory_gib: float, tf32_tflops: float, bf16_tflops: float, memory: float) -> Accelerator:
    peaks = {"float32": tf32_tflops * 1e12, "bfloat16": bf16_tflops * 1e12}
    return Accelerator(name, 1, None, int(0.75 * memory_gib * GIB), peaks, memory * 1e9, None)


ACCELERATORS = {
    each.name: each
    for each in (
        _tpu("v5e-1", 1, "v5e:1x1", 15.75, 197, 819, 400),
        _tpu("v5e-4", 4, "v5e:2x2", 15.75, 197, 819, 400),
        _tpu("v5e-8", 8, "v5e:2x4", 15.75, 197, 819, 400),
        _tpu("v6e-1", 1, "v6e:1x1", 31.25, 918, 1638, 800),
        _tpu("v6e-4", 4, "v6e:2x2", 31.25, 918, 1638, 800),
        _tpu("v6e-8", 8, "v6e:2x4", 31.25, 918, 1638, 800),
        # v5p is named by its TensorCores, two a chip: v5p-8 has 4 chips.
        _tpu("v5p-8", 4, "v5p:2x2x1", 95.74, 459, 2765, 1200),
        _tpu("v5p-16", 8, "v5p:2x2x2", 95.74, 459, 2765, 1200),
        _gpu("t4-16gb", 15, 8.1, 8.1, 320),
        _gpu("rtx4090-24gb", 23.99, 82.6, 165.2, 1008),
        _gpu("a100-80gb", 80, 156, 312, 2039),
        _gpu("h100-80gb", 80, 494.5, 989, 3350),
    )
}
