"""The pipeline run for real at its smallest size, and its stages started by hand on what it made."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from gsm8k_grpo.data import word_problems
from loopback_hubs import SECRETS

CREDENTIALS = ("HF_TOKEN", "KAGGLE_KEY", "WANDB_API_KEY")

SMALLEST = {
    "dataset": {"train_rows": 300, "test_rows": 20},
    "model": {
        "architecture": {
            "num_layers": 2,
            "embed_dim": 32,
            "hidden_dim": 32,
            "num_heads": 8,
            "num_kv_heads": 4,
            "head_dim": 8,
        },
        "pretraining": {"steps": 3, "batch_size": 8},
    },
    "prompt": {"dev_rows": 20},
    "training": {
        "max_steps": 4,
        "checkpoint_interval_steps": 2,
        "prompts_per_step": 2,
        "micro_batch_completions": 4,
        "num_generations": 2,
        "advantage_estimator": "rloo",
        "num_iterations": 2,
    },
    "evaluation": {
        "batch_size": 8,
        "selection_rows": 20,
        "transfer": [{"name": "others", "path": "others.csv", "question": "problem", "cluster": "template"}],
    },
}


ROOT = Path(__file__).parents[2]


def snakemake(folder, *arguments):
    """Runs Snakemake in a copy of the project; returns (exit status, everything printed)."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **dict(zip(CREDENTIALS, SECRETS, strict=True))}
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "1", "--configfile", "smallest.yaml"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def make_small_run(folder, training=None):
    """Copies the project to a new folder and runs the default recipe there to its report.

    `training` has settings that differ from `SMALLEST`.
    """
    ignored = shutil.ignore_patterns(".git", ".venv*", ".snakemake", "results", "site", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=ignored)
    (folder / "smallest.yaml").write_text(
        yaml.safe_dump(SMALLEST | {"training": SMALLEST["training"] | (training or {})})
    )
    write_others(folder / "others.csv")
    status, printed = snakemake(folder, "results/report.html")
    assert status == 0, printed


def write_others(path):
    """Another set: problems of another seed, two of each template, and one that is longer than a prompt may be."""
    problems, _ = word_problems.generate_problems(7, 6, 1)
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("problem", "answer", "template"))
        writer.writerows((row["question"], row["answer"], index // 2) for index, row in enumerate(problems))
        writer.writerow((" ".join(row["question"] for row in problems), 1, 3))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train(folder, output, environment=None, arguments=(), mesh=None, **changed):
    """Starts the stage `train` by hand, writing elsewhere, with other settings of training."""
    chosen = yaml.safe_load((folder / "results/tiny/settings.yaml").read_text())
    chosen["training"] |= changed
    chosen["mesh"] |= mesh or {}
    chosen_file = output.with_suffix(".yaml")
    chosen_file.write_text(yaml.safe_dump(chosen))
    return subprocess.Popen(
        [
            *(sys.executable, "scripts/train.py", "--settings", str(chosen_file)),
            *("--rows", "results/tiny/prompts/train.jsonl", "--model", "results/models/tiny", "--output", str(output)),
            *arguments,
        ],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process, status=0):
    """What a stage printed, when it ended as expected."""
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == status, printed
    return printed


def wait_for(process, output, pattern, more_than=0):
    """Until a run's folder has a file with more lines than that."""
    deadline = time.monotonic() + 300
    while not any(len(path.read_bytes().splitlines()) > more_than for path in output.glob(f"runs/*/{pattern}")):
        assert process.poll() is None and time.monotonic() < deadline, f"ended before {pattern}"
        time.sleep(0.01)


def listed_checkpoints(run):
    """The hashes of a run's checkpoints, by step."""
    return json.loads((run / "checkpoints.json").read_text())["checkpoints"]


def wait_for_checkpoint(process, output):
    """Until a run's folder lists a checkpoint."""
    deadline = time.monotonic() + 300
    while not any(listed_checkpoints(path.parent) for path in output.glob("runs/*/checkpoints.json")):
        assert process.poll() is None and time.monotonic() < deadline, "ended before its first checkpoint"
        time.sleep(0.01)


def without_seconds(folder):
    metrics = pd.read_csv(folder / "metrics.csv")
    return metrics[[name for name in metrics if not name.endswith("_seconds")]]


def assert_the_same(first, second):
    """Two folders of training: the same rows (seconds apart), kept completions, adapters and optimizer state."""
    pd.testing.assert_frame_equal(without_seconds(first), without_seconds(second), check_exact=True)
    assert (first / "samples.jsonl").read_bytes() == (second / "samples.jsonl").read_bytes()
    assert weights(first) == weights(second)


def weights(folder):
    """The bytes of the arrays of the final checkpoint."""
    (run,) = folder.glob("runs/*")
    found = checkpoint_arrays(run / "checkpoints/actor/8")
    assert len(found) > 20
    return found


def checkpoint_arrays(checkpoint):
    """The bytes of each array of a checkpoint, adapters and optimizer state, by its name."""
    import jax
    import orbax.checkpoint as ocp

    found = {}
    for item in ("model_params", "optimizer_state"):
        folder = (checkpoint / item).absolute()
        with ocp.PyTreeCheckpointer() as checkpointer:
            stored = checkpointer.metadata(folder).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
            restored = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
            found[item + jax.tree_util.keystr(path)] = leaf.tobytes()
    return found


def devices(count):
    """The environment of a process with so many simulated devices.

    On a busy machine their threads may wait for each other for longer than the 40 s after which XLA gives up.
    """
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {patience}"}


def fails(folder, *command):
    """What a stage prints when it ends on an error, which must be one line that says ERROR."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return next(line for line in done.stderr.splitlines() if line.startswith("ERROR: "))
