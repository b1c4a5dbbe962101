"""Which precision this machine multiplies faster: not every processor or card has instructions for bfloat16."""

import statistics
import time

import jax
import jax.numpy as jnp

ROWS, FEATURES_IN, FEATURES_OUT = 1024, 1024, 4096  # of a product, as in the feed-forward layer of a small model
REPEATS = 5
WORTH_TWICE_THE_MEMORY = 1.1  # float32 takes twice the memory of bfloat16, so it must be faster by a tenth


def fastest_dtype() -> str:
    """Gives the precision to compute in, `bfloat16` or `float32`, and prints what decided.

    Both are measured on JAX's default device, as our programs multiply (sums in float32).
    """
    seconds = {name: _product_seconds(jnp.dtype(name)) for name in ("bfloat16", "float32")}
    operations = 2 * ROWS * FEATURES_IN * FEATURES_OUT
    rates = ", ".join(f"{name} at {operations / each / 1e9:.0f} GFLOP/s" for name, each in seconds.items())
    chosen = faster_dtype(**seconds)
    print(f"model.dtype: fastest: this machine multiplies {rates}; the model computes in {chosen}", flush=True)
    return chosen


def faster_dtype(bfloat16: float, float32: float) -> str:
    """Decides by the seconds of equal products."""
    return "float32" if float32 * WORTH_TWICE_THE_MEMORY < bfloat16 else "bfloat16"


def _product_seconds(dtype: jnp.dtype) -> float:
    """Median seconds of a product once it is compiled."""
    multiply = jax.jit(lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(dtype))
    operands = jnp.ones((ROWS, FEATURES_IN), dtype), jnp.ones((FEATURES_IN, FEATURES_OUT), dtype)
    multiply(*operands).block_until_ready()
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        multiply(*operands).block_until_ready()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
