"""Training on simulated devices and in several processes."""

import os
import shutil
import socket
import subprocess
import sys

import pandas as pd
import pytest

from small_run import (
    ROOT,
    assert_the_same,
    devices,
    ended,
    rows,
    snakemake,
    train,
    wait_for_checkpoint,
    without_seconds,
)

pytestmark = pytest.mark.slow


def test_eight_devices_train_the_same_steps_as_one(finished, tmp_path):
    """Mesh (2, 4): every figure within 1e-5 (relative, or absolute near 0) of one device's; the same completions.

    Other prompts are drawn where a group has no signal: a first step without any has a gradient of rounding errors
    alone, which Adam, having seen nothing larger, makes a part of its step.
    """
    folders = tmp_path / "one", tmp_path / "eight"
    ended(train(finished, folders[0], dynamic_sampling_draws=4))
    ended(train(finished, folders[1], devices(8), mesh={"fsdp": 2, "tp": 4}, dynamic_sampling_draws=4))
    one, eight = map(without_seconds, folders)
    assert (one["gradient_norm"] > 0.01).all()
    pd.testing.assert_frame_equal(one, eight, rtol=1e-5, atol=1e-5)
    kept = [rows(folder / "samples.jsonl") for folder in folders]
    assert [row["completion"] for row in kept[0]] == [row["completion"] for row in kept[1]]


def test_two_processes_train_the_same_bits_as_one_and_go_on_after_a_kill(finished, tmp_path):
    """What the hosts of a TPU slice do: a process each, on a mesh over the devices of both."""
    mesh, alone, together = {"fsdp": 2, "tp": 2}, tmp_path / "alone", tmp_path / "together"
    ended(train(finished, alone, devices(4), mesh=mesh))

    def start():
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2", **devices(2)}
        return [
            train(finished, together, {**shared, "JAX_PROCESS_ID": str(index)}, ["--distributed"], mesh)
            for index in (0, 1)
        ]

    killed = start()
    wait_for_checkpoint(killed[0], together)
    for process in killed:
        process.kill()
        process.communicate()
    printed = [ended(process) for process in start()]
    assert "resuming after step 2 of 4" in printed[0] and "steps/s" not in printed[1]
    assert_the_same(alone, together)


def test_a_stage_on_another_platform_than_that_of_the_settings_stops(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project")
    target = "results/tiny/evaluations/base/metrics.json"
    status, printed = snakemake(folder, target, "--forcerun", "evaluate", "--config", "platform=tpu")
    assert status == 1 and "ERROR: platform: the setting is tpu, but JAX computes on cpu here" in printed, printed


SHARDED = """
import sys

import jax
import numpy as np
from flax import nnx

sys.path.insert(0, "scripts")
from gsm8k_grpo.generation.decoding_state import DrawingOptions
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models import building
from gsm8k_grpo.models.lora import with_lora
from gsm8k_grpo.models.mesh import make_mesh

mesh = make_mesh(2, 4)
sizes = {"num_layers": 1, "embed_dim": 32, "hidden_dim": 64, "num_heads": 8, "num_kv_heads": 4, "head_dim": 8}
config = building.tunix_config({**sizes, "family": "gemma2", "vocabulary_size": 64, "sliding_window_tokens": 64})
model = building.initialise(config, seed=0)
state = nnx.state(model)
nnx.update(model, jax.device_put(state, nnx.get_named_sharding(state, mesh)))
modules = ["q_einsum", "kv_einsum", "attn_vec_einsum", "gate_proj", "up_proj", "down_proj"]
for base_weights in (None, "int8"):
    lora = {"rank": 4, "alpha": 4, "dropout": 0, "base_weights": base_weights, "target_modules": modules}
    adapted = with_lora(model, lora, 0, mesh)
    for path, leaf in nnx.to_flat_state(nnx.state(adapted)):
        array = leaf[...]
        assert len(array.sharding.device_set) == 8, path
        if "_lora_" in str(path) or array.ndim > 1 and "scale" not in path:
            assert array.addressable_shards[0].data.size < array.size, (path, array.shape, array.sharding)


class Tokenizer:
    bos_id, eos_id, pad_id = (lambda self: 2), (lambda self: 1), (lambda self: 0)
    encode = decode = lambda self, text: [5]


sampler = Sampler(adapted, Tokenizer(), 16, mesh)
ids, keys = np.full((4, 8), 5, np.int32), jax.random.split(jax.random.key(0), 4)
options = DrawingOptions(8, (1,), 0.0, None, 1.0)
filled, weights = np.ones(4, bool), sampler.weights()
cache = sampler.prefill(weights, ids, keys, filled, copies=1, places=16, options=options).cache["layer_0"]
for name, shape in (("k", (8, 16)), ("v", (16, 8))):
    assert cache[name].shape == (4, 4, *shape)
    assert cache[name].addressable_shards[0].data.shape == (2, 1, *shape), cache[name].sharding
    assert len(cache[name].sharding.device_set) == 8
print("sharded")
"""


def test_cache_and_adapters_are_sharded_over_all_devices():
    command = [sys.executable, "-c", SHARDED]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **devices(8)}, capture_output=True, text=True)
    assert done.stdout == "sharded\n", done.stderr
