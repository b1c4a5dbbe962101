"""Precisions of a model's weights, before the base model is made.

The rules import this module, so it does not import JAX.
"""

WIDTH_BYTES = {"float32": 4, "bfloat16": 2}
# `model.dtype` where the stage base_model decides: see models/fastest_dtype.py.
FASTEST = "fastest"


def widest_bytes(dtype: str) -> int:
    """Bytes of a weight by `model.dtype`; the most where it is measured later."""
    return WIDTH_BYTES.get(dtype, max(WIDTH_BYTES.values()))


def accelerator_dtype(dtype: str) -> str:
    """The precision that a preflight plans with on a TPU or GPU: nearly all of them multiply bfloat16 faster."""
    return "bfloat16" if dtype == FASTEST else dtype
