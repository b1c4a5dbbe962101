"""What the machine can do at most: GFLOP/s of products and GB/s of memory, by PyTorch or by JAX.

  python benchmarks/speed/machine.py       # prints JSON; the library is the one that this Python has

The best of some repetitions. Products are of 2,048 rows with the shape of Qwen2.5 0.5B's feed-forward layer (896 ×
4,864), in bfloat16 with results in float32 where the library can. Memory is read by the sum of an array of 1 GiB.
"""

import importlib.util
import json
import time
from collections.abc import Callable

ROWS, WIDTH, HIDDEN, READ_BYTES, REPETITIONS = 2048, 896, 4864, 2**30, 7


def main() -> None:
    by_torch = importlib.util.find_spec("torch") is not None
    print(json.dumps({("torch" if by_torch else "jax"): _torch() if by_torch else _jax()}))


def _torch() -> dict:
    import torch

    found = {}
    for precision in ("float32", "bfloat16"):
        rows, weights = (
            torch.randn(*shape).to(getattr(torch, precision)) for shape in ((ROWS, WIDTH), (WIDTH, HIDDEN))
        )
        found[f"{precision}_gflops"] = _gflops(lambda rows=rows, weights=weights: rows @ weights)
    array = torch.ones(READ_BYTES // 4)
    return found | {"gigabytes_per_second": READ_BYTES / 1e9 / _seconds(array.sum)}


def _jax() -> dict:
    import jax
    import jax.numpy as jnp

    found = {}
    product = jax.jit(lambda rows, weights: jnp.dot(rows, weights, preferred_element_type=jnp.float32))
    for precision in ("float32", "bfloat16"):
        rows, weights = (
            jax.random.normal(jax.random.key(0), shape).astype(precision) for shape in ((ROWS, WIDTH), (WIDTH, HIDDEN))
        )
        found[f"{precision}_gflops"] = _gflops(
            lambda rows=rows, weights=weights: product(rows, weights).block_until_ready()
        )
    array, total = jnp.ones(READ_BYTES // 4), jax.jit(jnp.sum)
    return found | {"gigabytes_per_second": READ_BYTES / 1e9 / _seconds(lambda: total(array).block_until_ready())}


def _gflops(product: Callable) -> float:
    return 2 * ROWS * WIDTH * HIDDEN / 1e9 / _seconds(product)


def _seconds(call: Callable) -> float:
    best = float("inf")
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
