"""Small settings for the preflight's tests, and processes with eight simulated devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.config.recipes import effective_settings

SMALL = {
    "mesh": {"fsdp": 4, "tp": 2},
    "model": {
        "architecture": {"num_layers": 1, "embed_dim": 64, "hidden_dim": 96, "head_dim": 16, "vocabulary_size": 400}
    },
    "prompt": {"max_tokens": 64},
    "training": {
        "prompts_per_step": 4,
        "micro_batch_completions": 8,
        "num_generations": 4,
        "num_iterations": 2,
        "max_completion_tokens": 16,
        "lora": {"rank": 4},
    },
}


@pytest.fixture(scope="session")
def one_chip():
    """Makes settings of a small model on one chip, with changes."""
    small = {**SMALL, "mesh": {"fsdp": 1, "tp": 1}, "preflight": {"price_per_chip_hour": 0.5}}
    return lambda **changes: effective_settings("tiny", merge(small, changes))


@pytest.fixture(scope="session")
def on_eight_devices(root):
    """Runs a script of this folder with small settings for a mesh of 4 × 2; returns what it prints."""

    def run(script, *arguments, **environment):
        settings = json.dumps(effective_settings("tiny", SMALL))
        environment |= {
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # compilations are recorded
            "PYTHONPATH": str(root / "scripts"),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        }
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name(script), settings, *arguments],
            env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
