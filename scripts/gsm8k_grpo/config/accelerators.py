"""Accelerators that a preflight knows by name: what a chip has, and what to compile for.

TPUs: cloud.google.com/tpu/docs/{v5e,v6e,v5p} (peak compute, HBM bandwidth, bidirectional interconnect a chip). Their
usable HBM is what the TPU's compiler itself says is available (libtpu 0.0.42: 15.75, 31.25 and 95.74 GiB; the rest of
the chip's is reserved). They multiply float32 matrices in bfloat16 passes, one at JAX's default precision: one peak
stands for both.

GPUs: NVIDIA's data sheets (A100 80 GB SXM, H100 SXM, the Ada GPU architecture paper for the RTX 4090); peaks of dense
matrices with float32 accumulation, TF32 for float32 (XLA's default). Their usable memory is what JAX takes unless told
otherwise, three quarters of the card's (XLA_PYTHON_CLIENT_MEM_FRACTION).
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A machine.

    Attributes:
      name: in settings.
      chips: as JAX counts devices.
      topology: the compiler's name of the slice; None where programs are compiled for the CPU instead, an estimate.
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
        """Whether its own compiler is not the one that is asked."""
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
        _gpu("rtx4090-24gb", 23.99, 82.6, 165.2, 1008),
        _gpu("a100-80gb", 80, 156, 312, 2039),
        _gpu("h100-80gb", 80, 494.5, 989, 3350),
    )
}
