"""The memory that a process reports: each buffer once, and true peaks."""

import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from gsm8k_grpo.common.process_memory import memory_used
from gsm8k_grpo.models.lora import make_policy
from gsm8k_grpo.models.mesh import make_mesh

PEAK = """
import numpy as np, psutil
from gsm8k_grpo.common.process_memory import memory_used
block = np.ones(50_000_000)
del block
print(memory_used()["host_peak_bytes"] - psutil.Process().memory_info().rss)
"""

HOLE = """
import numpy as np, psutil
from gsm8k_grpo.common import jax_setup
jax_setup.configure_jax()
{now}
blocks = [np.ones(1_000_000) for _ in range(100)]
kept = np.ones(1_000_000)
before = psutil.Process().memory_info().rss
del blocks
print(before - psutil.Process().memory_info().rss)
"""


def test_live_arrays_count_and_shared_buffers_count_once():
    before = memory_used()["held_bytes"]
    array = jax.block_until_ready(jnp.arange(300_000.0))
    model = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    one = memory_used()["held_bytes"]
    assert one - before >= 1_200_000 + weights
    shared = make_policy(model, None, 0, make_mesh(1, 1))  # without LoRA: a second model of the same arrays
    assert memory_used()["held_bytes"] == one
    del shared
    del array
    assert memory_used()["held_bytes"] <= one - 1_200_000


def printed_number(code, root):
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


def test_the_peak_remains_after_the_memory_is_freed(root):
    assert 350_000_000 < printed_number(PEAK, root) < 800_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has these options")
def test_a_large_models_freed_buffers_go_back_and_a_small_ones_stay(root):
    assert printed_number(HOLE.format(now=""), root) < 20_000_000
    assert printed_number(HOLE.format(now="jax_setup.return_large_buffers()"), root) > 500_000_000
