"""The whole pipeline, run for real at the smallest size: artifacts, resumption after a kill, errors of late stages."""

import hashlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from generation import completed
from gsm8k_grpo.common.errors import PipelineError
from loopback_hubs import SECRETS

ROOT = Path(__file__).parents[2]
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
        "micro_batch_prompts": 2,
        "num_generations": 2,
        "advantage_estimator": "rloo",
        "num_iterations": 2,
    },
    "evaluation": {"batch_size": 8, "selection_rows": 20},
}
# Known to every run here; they may be nowhere in what it writes.
CREDENTIALS = ("HF_TOKEN", "KAGGLE_KEY", "WANDB_API_KEY")


def snakemake(folder, *arguments):
    """Runs Snakemake in a copy of the project; returns (exit status, everything printed)."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **dict(zip(CREDENTIALS, SECRETS, strict=True))}
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "1", "--configfile", "smallest.yaml"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A copy of the project in which the default recipe ran to its report, with few steps and a smaller model."""
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    shutil.copytree(
        ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", ".snakemake", "results", "__pycache__", ".*_cache")
    )
    (folder / "smallest.yaml").write_text(yaml.safe_dump(SMALLEST))
    status, printed = snakemake(folder, "results/report.html")
    assert status == 0, printed
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_second_call_says_that_there_is_nothing_to_be_done(finished):
    status, printed = snakemake(finished, "results/report.html")
    assert status == 0
    assert "Nothing to be done" in printed


def test_no_credential_is_in_the_report_or_anything_else_that_is_written(finished, exported):
    read = set()
    for path in (*(finished / "results").rglob("*"), *(finished / ".snakemake").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in SECRETS), path
            read.add(path.name)
    assert {"report.html", "README.md", "train.log", "model.json", "inputs.json"} <= read


def test_every_artifact_of_the_contract_is_there_with_its_keys(finished):
    results = finished / "results"
    assert rows(results / "data/word-problems/test.jsonl")[0].keys() == {"id", "question", "solution", "answer"}
    assert (
        read(results / "models/tiny/model.json")["parameters"]
        == 32 * 640 + 2 * (32 * 8 * 8 * 2 + 2 * 32 * 4 * 8 + 3 * 32 * 32 + 4 * 32) + 32
    )
    for split, count in (("train", 280), ("dev", 20), ("test", 20)):
        prompts = rows(results / f"tiny/prompts/{split}.jsonl")
        assert len(prompts) == count
        assert prompts[0].keys() == {"id", "prompt", "answer", "prompt_tokens"}
    assert [kept["name"] for kept in read(results / "tiny/training/checkpoints.json")["checkpoints"]] == [
        "step-2",
        "final",
    ]
    best = read(results / "tiny/best.json")["checkpoint"]
    on_dev = [("dev", "evaluations-dev", name, name) for name in ("base", "step-2", "final")]
    on_test = [("test", "evaluations", name, name) for name in ("base", "final")]
    for split, folder, name, checkpoint in (*on_dev, *on_test, ("test", "evaluations", "best", best)):
        metrics = read(results / f"tiny/{folder}/{name}/metrics.json")
        assert (metrics["checkpoint"], metrics["split"], metrics["decoding"]) == (checkpoint, split, "greedy")
        assert metrics["step"] == {"base": 0, "step-2": 2, "final": 4}[checkpoint]
        for rate in (
            "answer_accuracy",
            "partial_accuracy",
            "format_accuracy",
            "strict_accuracy",
            "flexible_accuracy",
            "cascade_accuracy",
            "truncated_rate",
        ):
            assert metrics[rate].keys() == {"value", "low", "high", "n"}
            assert 0 <= metrics[rate]["low"] <= metrics[rate]["value"] <= metrics[rate]["high"] <= 1
            assert metrics[rate]["n"] == 20
        completions = rows(results / f"tiny/{folder}/{name}/completions.jsonl")
        first = 280 if split == "dev" else 0  # dev is the end of train
        ids = [f"{'train' if split == 'dev' else 'test'}-{first + index:05d}" for index in range(20)]
        assert [row["id"] for row in completions] == ids
        assert metrics["answer_accuracy"]["value"] == sum(row["strict_correct"] for row in completions) / 20
    assert yaml.safe_load((results / "tiny/settings.yaml").read_text())["training"]["max_steps"] == 4
    assert read(results / "tiny/training/summary.json")["starts"] == [0]
    rewarded = rows(results / "tiny/rewards.jsonl")
    assert [row["id"] for row in rewarded] == [f"test-{index:05d}" for index in range(20)]
    for side in ("base", "final", "best"):
        assert all(row[side].keys() == {"format_exact", "format_approximate", "answer", "number"} for row in rewarded)
        exact = [row["format_correct"] for row in rows(results / f"tiny/evaluations/{side}/completions.jsonl")]
        assert [row[side]["format_exact"] == 3 for row in rewarded] == exact
    for plot in ("accuracy", "training"):
        assert "</svg>" in (results / f"tiny/plots/{plot}.svg").read_text()
    with_provenance = ("data/word-problems/dataset.json", "tiny/prompts/summary.json", "tiny/training/summary.json")
    for facts in (
        *(read(results / name)["provenance"] for name in with_provenance),
        read(results / "models/tiny/provenance.json"),
    ):
        assert facts["seconds"] > 0 and facts["versions"]["google-tunix"] == "0.1.7"


def test_metrics_have_one_finite_row_a_step(finished):
    metrics = pd.read_csv(finished / "results/tiny/training/metrics.csv")
    assert metrics["step"].tolist() == [1, 2, 3, 4]
    assert metrics["tokens"].is_monotonic_increasing and metrics["epoch"].tolist() == [
        step / 140 for step in (1, 2, 3, 4)
    ]
    assert (metrics[["rollout_seconds", "reference_seconds", "update_seconds"]] > 0).all(axis=None)
    assert (metrics["checkpoint_seconds"] > 0).tolist() == [False, True, False, True]
    assert all(math.isfinite(value) for value in metrics.to_numpy().ravel())
    named = [f"reward_{name}" for name in ("format_exact", "format_approximate", "answer", "number")]
    assert metrics[named].sum(axis=1).to_numpy() == pytest.approx(metrics["reward"].to_numpy())


def test_every_rule_left_a_log_and_long_stages_show_rate_and_time_left(finished):
    logs = finished / "results/logs"
    for name in ("data/word-problems/download", "tiny/prompts", "tiny/train", "tiny/evaluations-final", "report"):
        assert (logs / f"{name}.log").is_file()
    assert "steps/s, 0 s left" in (logs / "tiny/train.log").read_text()
    assert "steps/s, 0 s left" in (logs / "models/tiny/base_model.log").read_text()


def test_the_same_evaluation_is_taken_over_and_another_is_made(finished, tmp_path):
    chosen = ("--settings", "results/tiny/settings.yaml", "--model", "results/models/tiny")
    chosen += ("--rows", "results/tiny/prompts/dev.jsonl", "--split", "dev")
    same = [f"results/tiny/evaluations{part}/base/metrics.json" for part in ("", "-dev")]

    def evaluate(output, *arguments):
        command = [sys.executable, "scripts/evaluate.py", *chosen, "--output", tmp_path / output, *arguments]
        return ended(subprocess.Popen(command, cwd=finished, stdout=subprocess.PIPE, text=True))

    printed = evaluate("taken", "--same", *same)
    assert "its rows are taken over" in printed and "completions/s" not in printed
    for name in ("metrics.json", "completions.jsonl"):
        taken = (tmp_path / "taken" / name).read_bytes()
        assert taken == (finished / "results/tiny/evaluations-dev/base" / name).read_bytes()
    printed = evaluate("made", "--same", same[0])  # of test
    assert "taken over" not in printed
    made = (tmp_path / "made" / "completions.jsonl").read_bytes()
    assert made == (tmp_path / "taken" / "completions.jsonl").read_bytes()


def test_several_seeds_share_one_base_evaluation_and_are_reported_together(finished, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    chosen = ("seeds=[0,1]", "training={checkpoint_interval_steps: 4}")
    status, printed = snakemake(folder, "results/report.html", "--config", *chosen)
    assert status == 0, printed
    results = folder / "results"
    over = read(results / "tiny/seeds.json")
    assert over["runs"] == ["tiny-seed-0", "tiny-seed-1"] and over["final"]["answer_accuracy"]["n"] == 2
    logs = [(results / f"logs/tiny-seed-{seed}/evaluations-base.log").read_text() for seed in (0, 1)]
    assert ["taken over" in log for log in logs] == [False, True]
    first, second = (pd.read_csv(results / f"tiny-seed-{seed}/training/metrics.csv") for seed in (0, 1))
    assert first["reward"].tolist() != second["reward"].tolist()
    # Seed 0 is the seed of the run without several: the same bits.
    alone = pd.read_csv(results / "tiny/training/metrics.csv")
    timings = [name for name in alone if name.endswith("_seconds")]
    assert first.drop(columns=timings).equals(alone.drop(columns=timings))
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "tiny over 2 seeds" in page and 'id="tiny-seed-1"' in page
    (pair,) = read(results / "comparison-of-recipes.json")["pairs"]
    right = [
        sum(row["strict_correct"] for row in rows(results / f"{run}/evaluations/final/completions.jsonl"))
        for run in over["runs"]
    ]
    assert pair["recipes"] == over["runs"] and pair["answer"]["n"] == 20
    assert pair["answer"]["fixed"] - pair["answer"]["broken"] == right[1] - right[0]
    assert "Run against run" in page


def test_the_report_says_what_the_artifacts_say(finished):
    page = (finished / "results/report.html").read_text(encoding="utf-8")
    final = read(finished / "results/tiny/evaluations/final/metrics.json")
    assert f"{100 * final['format_accuracy']['value']:.1f} %" in page
    assert "no significant change" in page  # four steps teach nothing, and the words say so


def test_the_same_artifacts_give_the_same_report(finished):
    page = finished / "results/report.html"
    before = page.read_bytes()
    done = subprocess.run(
        [sys.executable, "scripts/report.py", "--recipes", "tiny", "--results", "results", "--output", "again.html"],
        cwd=finished,
    )
    assert done.returncode == 0
    assert (finished / "again.html").read_bytes() == before


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


def without_seconds(folder):
    metrics = pd.read_csv(folder / "metrics.csv")
    return metrics[[name for name in metrics if not name.endswith("_seconds")]]


def assert_the_same(first, second):
    """Two folders of training: the same rows (seconds apart), kept completions, adapters and optimizer state."""
    pd.testing.assert_frame_equal(without_seconds(first), without_seconds(second), check_exact=True)
    assert (first / "samples.jsonl").read_bytes() == (second / "samples.jsonl").read_bytes()
    assert weights(first) == weights(second)


def test_a_training_killed_at_random_points_resumes_to_the_same_bits(finished, tmp_path):
    """Kills while starting, and shortly after the steps 1, 2 and 3: in a rollout, an update or a save."""
    output, random, kills = tmp_path / "training", np.random.default_rng(), 0
    for lines, seconds in ((-1, 4.0), (0, 0.1), (1, 0.5), (2, 1.0)):
        killed = train(finished, output)
        wait_for(killed, output, "metrics.jsonl" if lines >= 0 else "inputs.json", more_than=lines)
        time.sleep(seconds * random.random())
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        kills += killed.returncode != 0  # 0: it had come to its end
    assert kills >= 2
    assert "ERROR" not in ended(train(finished, output))
    assert_the_same(finished / "results/tiny/training", output)


def test_sigterm_saves_the_newest_step_and_ends_within_seconds(finished, tmp_path):
    output = tmp_path / "training"
    stopped = train(finished, output)
    wait_for(stopped, output, "metrics.jsonl")
    signalled = time.monotonic()
    stopped.send_signal(signal.SIGTERM)
    printed = ended(stopped, 128 + signal.SIGTERM)
    assert time.monotonic() - signalled < 20
    (run,) = output.glob("runs/*")
    saved = max(map(int, read(run / "checkpoints.json")))
    assert f"SIGTERM: step {saved} is saved; the same command goes on from there" in printed
    assert f"resuming after step {saved} of 4" in ended(train(finished, output))
    assert_the_same(finished / "results/tiny/training", output)
    assert sorted(read(run / "checkpoints.json")) == ["2", "4"]  # the one between is gone
    assert read(output / "summary.json")["starts"] == [0, saved]


def test_a_signal_to_all_processes_saves_too_and_the_log_says_so(finished, tmp_path):
    """As Ctrl-C and preempted machines send it, through Snakemake, to the whole process group."""
    folder = tmp_path / "project"
    kept_out = shutil.ignore_patterns("runs", "evaluations", "training")
    shutil.copytree(finished, folder, ignore=kept_out)
    command = [sys.executable, "-m", "snakemake", "results/tiny/training/checkpoints.json", "--cores", "1"]
    command += [
        "--configfile",
        "smallest.yaml",
        "--config",
        "training={max_steps: 200, checkpoint_interval_steps: 200}",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PATH": path}, start_new_session=True, **pipes)
    wait_for(process, folder / "results/tiny/training", "metrics.jsonl", more_than=2)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    log = folder / "results/logs/tiny/train.log"
    deadline = time.monotonic() + 30
    while "SIGTERM: step" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    (saved,) = folder.glob("results/tiny/training/runs/*/checkpoints.json")
    assert max(map(int, read(saved))) >= 3


def test_sigterm_on_a_full_disk_says_so(finished, tmp_path):
    output = tmp_path / "training"
    started = train(finished, output, max_steps=200, checkpoint_interval_steps=200)
    started.kill()
    started.communicate()
    limited = f"ulimit -f 20; exec {sys.executable} scripts/train.py --settings {output.with_suffix('.yaml')}"
    limited += f" --output {output} --rows results/tiny/prompts/train.jsonl --model results/models/tiny"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    stopped = subprocess.Popen(["bash", "-c", limited], cwd=finished, **pipes)
    wait_for(stopped, output, "metrics.jsonl")
    stopped.send_signal(signal.SIGTERM)
    printed = ended(stopped, 128 + signal.SIGTERM)
    assert "ERROR: SIGTERM: " in printed and "cannot be written (File too large)" in printed


def test_a_finished_run_trains_nothing_more_and_leaves_the_same_artifacts(finished, tmp_path):
    output = tmp_path / "training"
    shutil.copytree(finished / "results/tiny/training", output)
    before = {name: (output / name).read_bytes() for name in ("metrics.csv", "samples.jsonl", "checkpoints.json")}
    printed = ended(train(finished, output))
    assert "steps/s" not in printed and "LoRA parameters" not in printed
    assert {name: (output / name).read_bytes() for name in before} == before


def test_another_setting_is_another_run_and_a_longer_one_goes_on_only_where_the_schedule_allows(finished, tmp_path):
    output = tmp_path / "training"
    ended(train(finished, output, schedule_steps=6))
    (first,) = output.glob("runs/*")
    printed = ended(train(finished, output, schedule_steps=6, max_steps=6))
    assert "resuming after step 4 of 6" in printed
    assert [kept["name"] for kept in read(output / "checkpoints.json")["checkpoints"]] == ["step-2", "step-4", "final"]
    assert list(output.glob("runs/*")) == [first]
    at_once = tmp_path / "at-once"
    ended(train(finished, at_once, schedule_steps=6, max_steps=6))
    assert_the_same(at_once, output)

    printed = ended(train(finished, output, max_steps=2, beta=0.0))
    assert f"another run than {first.name}, which stays as it is: settings.training.beta: 0.04, now 0.0" in printed
    assert "resuming" not in printed
    metrics = pd.read_csv(output / "metrics.csv")
    assert metrics["step"].tolist() == [1, 2]
    assert metrics["kl"].isna().all() and (metrics["reference_seconds"] == 0).all()


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(finished, tmp_path):
    output = tmp_path / "training"
    shutil.copytree(finished / "results/tiny/training", output)
    (damaged,) = output.glob("runs/*/checkpoints/actor/8/model_params/manifest.ocdbt")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    evaluate = ("scripts/evaluate.py", "--settings", "results/tiny/settings.yaml", "--output", str(tmp_path / "final"))
    prompts = ("--rows", "results/tiny/prompts/test.jsonl")
    checkpoint = ("--checkpoint", "final", "--checkpoints", str(output / "checkpoints.json"))
    error = fails(finished, *evaluate, *prompts, "--model", "results/models/tiny", *checkpoint)
    assert "actor/8" in error and "--forcerun train" in error
    printed = ended(train(finished, output))
    assert "checkpoints/actor/8: is damaged" in printed and "set aside as" in printed
    assert "resuming after step 2 of 4" in printed
    assert_the_same(finished / "results/tiny/training", output)


def test_a_full_disk_is_one_clear_error_and_the_checkpoints_before_stand(finished, tmp_path):
    output = tmp_path / "training"
    stopped = train(finished, output)
    wait_for(stopped, output, "checkpoints.json", more_than=1)
    stopped.send_signal(signal.SIGKILL)
    ended(stopped, -signal.SIGKILL)
    (run,) = output.glob("runs/*")
    before = read(run / "checkpoints.json")
    assert list(before) == ["2"]
    # No file may grow beyond 20 kB: what the disk answers then is what it answers when it is full, in the same calls.
    chosen = output.with_suffix(".yaml")
    limited = f"ulimit -f 20; exec {sys.executable} scripts/train.py --settings {chosen} --output {output}"
    limited += " --rows results/tiny/prompts/train.jsonl --model results/models/tiny"
    done = subprocess.run(["bash", "-c", limited], cwd=finished, capture_output=True, text=True)
    error = next(line for line in done.stderr.splitlines() if line.startswith("ERROR: "))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "checkpoints/actor/8: the checkpoint of step 4 cannot be written (File too large)" in error
        and "ones before stand" in error
    )
    assert read(run / "checkpoints.json") == before
    assert "resuming after step 2 of 4" in ended(train(finished, output))
    assert_the_same(finished / "results/tiny/training", output)


def weights(folder):
    """Hashes of the arrays of the final checkpoint: adapters and optimizer state."""
    import jax
    import orbax.checkpoint as ocp

    (run,) = folder.glob("runs/*")
    found = {}
    for item in ("model_params", "optimizer_state"):
        folder = (run / "checkpoints/actor/8" / item).absolute()
        with ocp.PyTreeCheckpointer() as checkpointer:
            stored = checkpointer.metadata(folder).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
            restored = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
            found[item + jax.tree_util.keystr(path)] = leaf.tobytes()
    assert len(found) > 20
    return found


def devices(count):
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


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
    wait_for(killed[0], together, "checkpoints.json", more_than=1)
    for process in killed:
        process.kill()
        process.communicate()
    printed = [ended(process) for process in start()]
    assert "resuming after step 2 of 4" in printed[0] and "steps/s" not in printed[1]
    assert_the_same(alone, together)


def test_a_killed_evaluation_goes_on_to_the_same_rows(finished, tmp_path):
    chosen = yaml.safe_load((finished / "results/tiny/settings.yaml").read_text())
    chosen["evaluation"] |= {"temperature": 1.0, "samples": 3, "batch_size": 4}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(chosen))

    def start(output):
        command = [sys.executable, "scripts/evaluate.py", "--settings", tmp_path / "settings.yaml"]
        command += ["--rows", "results/tiny/prompts/test.jsonl", "--model", "results/models/tiny"]
        command += ["--checkpoints", "results/tiny/training/checkpoints.json", "--checkpoint", "step-2"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, "--output", output], cwd=finished, **pipes)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    ended(start(whole))
    killed = start(stopped)
    deadline = time.monotonic() + 300
    while not any(len(path.read_bytes().splitlines()) > 2 for path in stopped.glob("unfinished-*.jsonl")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    assert not (stopped / "metrics.json").exists()
    assert "of 15 batches" in ended(start(stopped))
    assert (whole / "completions.jsonl").read_bytes() == (stopped / "completions.jsonl").read_bytes()
    assert not list(stopped.glob("unfinished-*"))
    graded = rows(whole / "completions.jsonl")
    assert [(row["id"], row["sample"]) for row in graded] == [
        (f"test-{index:05d}", sample) for index in range(20) for sample in range(3)
    ]
    assert {row["stop_reason"] for row in graded} <= {"limit", "end_of_turn"}
    assert len({row["completion"] for row in graded}) > 20
    measured = read(whole / "metrics.json")
    assert measured["samples"] == 3 and measured["answer_accuracy"]["n"] == 20
    assert measured["pass_at_k"]["value"] >= measured["answer_accuracy"]["value"]
    assert measured["starts"] == 1 and read(stopped / "metrics.json")["starts"] == 2
    timings = ("seconds", "tokens_per_second", "provenance", "starts")
    first, second = (read(folder / "metrics.json") for folder in (whole, stopped))
    assert {k: v for k, v in first.items() if k not in timings} == {k: v for k, v in second.items() if k not in timings}


@pytest.mark.parametrize("all_weights", [False, True], ids=["adapters", "all weights"])
def test_each_checkpoint_loads_by_itself_to_the_same_greedy_completions(finished, tmp_path, all_weights):
    from gsm8k_grpo.common import files
    from gsm8k_grpo.config.merging import read_only, to_plain
    from gsm8k_grpo.generation.cache_size import cache_tokens
    from gsm8k_grpo.generation.sampler import Sampler
    from gsm8k_grpo.grpo import tunix_setup
    from gsm8k_grpo.grpo.learner import Learner
    from gsm8k_grpo.grpo.recorder import write_checkpoint
    from gsm8k_grpo.grpo.run_folder import Run
    from gsm8k_grpo.models.base_model import load_base_model, load_checkpoint
    from gsm8k_grpo.models.lora import make_policy
    from gsm8k_grpo.models.mesh import make_mesh
    from gsm8k_grpo.rewards.answers import Tags

    chosen = read_only(yaml.safe_load((finished / "results/tiny/settings.yaml").read_text()))
    mesh, model_folder = make_mesh(1, 1), finished / "results/models/tiny"
    prompts = rows(finished / "results/tiny/prompts/train.jsonl")
    limits = chosen["prompt"]["max_tokens"], chosen["training"]["max_completion_tokens"]

    def greedy(model, loaded):
        sampler = Sampler(model, loaded.tokenizer, cache_tokens(*limits), mesh)
        asked = [row["prompt"] for row in prompts[:8]]
        return completed(sampler, asked, 8, *limits, loaded.stop_ids, mesh)

    loaded, reference = (load_base_model(model_folder, mesh) for _ in range(2))
    # So that few steps change completions.
    lora = None if all_weights else {**chosen["training"]["lora"], "alpha": 400.0}
    how = {**chosen["training"], "lora": lora, "learning_rate": 0.02 if all_weights else 1.5e-3}
    policy = make_policy(loaded.model, lora, chosen["seed"], mesh)
    run = Run(tmp_path, chosen["training"]["num_iterations"])
    cluster = tunix_setup.make_rl_cluster(
        policy, reference.model, loaded.tokenizer, mesh, how, limits[0], loaded.stop_ids, 0, run
    )
    learner = Learner(cluster, how, Tags(**chosen["prompt"]["tags"]), prompts, 0, loaded.stop_ids)
    live = {"base": greedy(policy, loaded)}
    for step in (1, 2, 3):
        learner.update(learner.sample())
        write_checkpoint(learner, how, run)
        live[f"step-{step}"] = greedy(policy, loaded)
    assert len({str(completions) for completions in live.values()}) >= 3  # they differ, or nothing would be shown
    listed = [
        {
            "name": f"step-{step}",
            "path": run.checkpoint(step).relative_to(tmp_path).as_posix(),
            "sha256": files.sha256_tree(run.checkpoint(step)),
        }
        for step in (1, 2, 3)
    ]
    manifest = {"seed": 0, "lora": lora and to_plain(lora), "checkpoints": listed, "model": loaded.sha256}
    files.write_json(tmp_path / "other.json", {**manifest, "model": {"weights": "0" * 64}})
    with pytest.raises(PipelineError, match=r"other.json: these adapters were trained on another base model"):
        load_checkpoint(loaded, tmp_path / "other.json", "step-1", mesh)
    files.write_json(tmp_path / "listed.json", manifest)
    for step in (3, 1, 2):
        fresh = load_base_model(model_folder, mesh)
        adapted = load_checkpoint(fresh, tmp_path / "listed.json", f"step-{step}", mesh)
        assert greedy(adapted, fresh) == live[f"step-{step}"]


SHARDED = """
import sys

import jax
import numpy as np
from flax import nnx

sys.path.insert(0, "scripts")
from gsm8k_grpo import models, rollout

mesh = models.make_mesh(2, 4)
sizes = {"num_layers": 1, "embed_dim": 32, "hidden_dim": 64, "num_heads": 8, "num_kv_heads": 4, "head_dim": 8}
config = models.config({**sizes, "family": "gemma2", "vocabulary_size": 64, "sliding_window_tokens": 64})
model = models.initialise(config, seed=0)
state = nnx.state(model)
nnx.update(model, jax.device_put(state, nnx.get_named_sharding(state, mesh)))
modules = ["q_einsum", "kv_einsum", "attn_vec_einsum", "gate_proj", "up_proj", "down_proj"]
for base_weights in (None, "int8"):
    lora = {"rank": 4, "alpha": 4, "dropout": 0, "base_weights": base_weights, "target_modules": modules}
    adapted = models.with_lora(model, lora, 0, mesh)
    for path, leaf in nnx.to_flat_state(nnx.state(adapted)):
        array = leaf[...]
        assert len(array.sharding.device_set) == 8, path
        if "_lora_" in str(path) or array.ndim > 1 and "scale" not in path:
            assert array.addressable_shards[0].data.size < array.size, (path, array.shape, array.sharding)


class Tokenizer:
    bos_id, eos_id, pad_id = (lambda self: 2), (lambda self: 1), (lambda self: 0)
    encode = decode = lambda self, text: [5]


sampler = rollout.Sampler(adapted, Tokenizer(), 16, mesh)
ids, keys = np.full((4, 8), 5, np.int32), jax.random.split(jax.random.key(0), 4)
how = rollout.Drawing(8, (1,), 0.0, None, 1.0)
cache = sampler.prefill(sampler._flattened_transformer_state, ids, keys, copies=1, room=8, how=how).cache["layer_0"]
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


def fails(folder, *command):
    """What a stage prints when it ends on an error, which must be one line that says ERROR."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return next(line for line in done.stderr.splitlines() if line.startswith("ERROR: "))


def test_too_large_a_batch_is_refused_by_name_before_anything_is_computed(finished, tmp_path):
    chosen = yaml.safe_load((finished / "results/tiny/settings.yaml").read_text())
    chosen["training"] |= {"num_generations": 4_000_000}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(chosen))
    error = fails(
        finished,
        *("scripts/train.py", "--settings", str(tmp_path / "settings.yaml"), "--output", str(tmp_path / "training")),
        *("--rows", "results/tiny/prompts/train.jsonl", "--model", "results/models/tiny"),
    )
    assert "too little memory" in error and "training.num_generations" in error
    chosen["evaluation"] |= {"max_completion_tokens": 400_000_000}
    chosen["model"]["architecture"]["sliding_window_tokens"] = 500_000_000
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(chosen))
    error = fails(
        finished,
        *("scripts/evaluate.py", "--settings", str(tmp_path / "settings.yaml"), "--output", str(tmp_path / "base")),
        *("--rows", "results/tiny/prompts/test.jsonl", "--model", "results/models/tiny"),
    )
    assert "too little memory" in error and "evaluation.batch_size" in error


def test_missing_weights_are_named(finished, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(finished / "results/models/tiny", model)
    shutil.rmtree(model / "weights")
    evaluate = ("scripts/evaluate.py", "--settings", "results/tiny/settings.yaml", "--output", str(tmp_path / "base"))
    error = fails(finished, *evaluate, "--rows", "results/tiny/prompts/test.jsonl", "--model", str(model))
    assert f"{model}/weights" in error and "--forcerun base_model" in error


# The export.


@pytest.fixture(scope="session")
def exported(finished):
    """The export of the finished recipe."""
    status, printed = snakemake(finished, "results/tiny/export/README.md")
    assert status == 0, printed
    return finished / "results/tiny/export"


def export(folder, results, output):
    """The stage by hand."""
    return ("scripts/export.py", "--results", str(results), "--recipe", "tiny", "--output", str(output))


def test_the_export_is_whole_and_its_card_says_what_the_artifacts_say(finished, exported):
    import huggingface_hub

    manifest = read(exported / "export.json")
    found = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert found == {*manifest["files"], "export.json"}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja"):
        assert {name, f"base/{name}"} <= found
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "NOTICE"} <= found
    for name, sha256 in manifest["files"].items():
        assert sha256 == hashlib.sha256((exported / name).read_bytes()).hexdigest()
    assert manifest["training"] == read(finished / "results/tiny/training/checkpoints.json")["fingerprint"]
    assert manifest["checkpoint"]["step"] == 4 and 0 < manifest["changed_weights"] <= manifest["adapted_weights"]
    assert manifest["agreement"]["rows"] == 8 and manifest["agreement"]["largest_difference"] < 1e-5
    assert manifest["agreement"]["same_next_token"] == 1.0
    text = (exported / "README.md").read_text(encoding="utf-8")
    card = huggingface_hub.ModelCard(text)
    final, base = (read(finished / f"results/tiny/evaluations/{name}/metrics.json") for name in ("final", "base"))
    answer = next(result for result in card.data.eval_results if "own reading" in result.metric_name)
    assert answer.metric_value == round(100 * final["answer_accuracy"]["value"], 2)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    for rate in ("answer_accuracy", "format_accuracy", "flexible_accuracy"):
        for measured in (base, final):
            low, high = (f"{100 * measured[rate][end]:.1f}" for end in ("low", "high"))
            assert f"{100 * measured[rate]['value']:.1f} % ({low}–{high})" in text
    assert "google-tunix 0.1.7" in text and "learning_rate: 0.0015" in text and "\n20 test rows" in text
    assert read(finished / "results/models/tiny/model.json")["sha256"]["weights"] in text
    # It is no part of the report, and is not made again for nothing.
    assert "Nothing to be done" in snakemake(finished, "results/report.html")[1]
    assert "Nothing to be done" in snakemake(finished, "results/tiny/export/export.json")[1]


def test_the_export_gives_the_same_prompts_and_greedy_answers_in_transformers_and_peft(finished, exported):
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    from gsm8k_grpo.generation.cache_size import cache_tokens
    from gsm8k_grpo.generation.sampler import Sampler
    from gsm8k_grpo.models import tokenizers
    from gsm8k_grpo.models.base_model import load_base_model, load_checkpoint
    from gsm8k_grpo.models.mesh import make_mesh

    settings = yaml.safe_load((finished / "results/tiny/settings.yaml").read_text())
    questions = {
        row["id"]: row["question"]
        for split in ("train", "test")
        for row in rows(finished / f"results/data/word-problems/{split}.jsonl")
    }
    asked = [row for split in ("test", "train") for row in rows(finished / f"results/tiny/prompts/{split}.jsonl")][:50]
    prompts = [row["prompt"] for row in asked]
    mesh, limits = make_mesh(1, 1), (settings["prompt"]["max_tokens"], 36)
    loaded = load_base_model(finished / "results/models/tiny", mesh)
    trained = load_checkpoint(loaded, finished / "results/tiny/training/checkpoints.json", "final", mesh)
    sampler = Sampler(trained, loaded.tokenizer, cache_tokens(*limits), mesh)
    found = completed(sampler, prompts, 50, *limits, loaded.stop_ids, mesh)

    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    chats = [
        [{"role": "system", "content": settings["prompt"]["system"]}, {"role": "user", "content": questions[row["id"]]}]
        for row in asked
    ]
    ids = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == [tokenizers.with_bos(loaded.tokenizer, loaded.tokenizer.encode(prompt)) for prompt in prompts]
    batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}

    def answers(model):
        with torch.no_grad():
            output = model.eval().generate(**batch)[:, batch["input_ids"].shape[1] :]
        own = tokenizer.batch_decode(output, skip_special_tokens=True)
        texts = []
        for ids, text in zip(output.tolist(), own, strict=True):
            kept = ids[: next((place for place, each in enumerate(ids) if each in loaded.stop_ids), None)]
            texts.append(loaded.tokenizer.decode(kept))
            # A model of three steps writes special tokens, and bytes that are no UTF-8: the two treat both differently.
            plain = loaded.tokenizer.decode([each for each in kept if each not in special])
            assert text == plain or "\ufffd" in plain
        return texts

    def load(folder):
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")

    expected = [found[index, 0].text for index in range(50)]
    assert answers(load(exported)) == expected
    alone = load(exported / "base")
    assert read(exported / "adapter/adapter_config.json")["base_model_name_or_path"] == "results/tiny/export/base"
    assert answers(peft.PeftModel.from_pretrained(alone, exported / "adapter")) == expected


def test_the_same_artifacts_give_the_same_export(finished, exported, tmp_path):
    done = subprocess.run([sys.executable, *export(finished, "results", tmp_path / "again")], cwd=finished)
    assert done.returncode == 0
    first, second = (read(folder / "export.json") for folder in (exported, tmp_path / "again"))
    # The adapters name the folder of their base.
    assert first.pop("adapter_base") != second.pop("adapter_base")
    assert first["files"].pop("adapter/adapter_config.json") != second["files"].pop("adapter/adapter_config.json")
    assert first == second


def test_what_cannot_be_exported_is_said_in_one_sentence_and_loses_no_finished_export(finished, exported, tmp_path):
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    results = tmp_path / "results"

    def fresh():
        shutil.rmtree(results, ignore_errors=True)
        shutil.copytree(finished / "results", results, ignore=shutil.ignore_patterns("cache"))
        return results / "tiny/training/checkpoints.json", results / "models/tiny/model.json"

    def fault():
        error = fails(finished, *export(finished, results, results / "tiny/export"))
        kept = {path: (results / "tiny/export" / path.relative_to(exported)).read_bytes() for path in before}
        assert kept == before and not list((results / "tiny/export").glob(".making.*"))
        return error

    checkpoints, _ = fresh()
    checkpoints.unlink()
    error = fault()
    assert "tiny has not finished; run snakemake" in error and "results/tiny/export/export.json" in error
    _, model = fresh()
    model.write_text(model.read_text().replace(read(model)["sha256"]["weights"], "0" * 64))
    assert "were trained on another base model" in fault()
    checkpoints, model = fresh()
    true = read(model)["sha256"]["weights"]
    for path in (checkpoints, model):  # as if both were right, but other weights lie there
        path.write_text(path.read_text().replace(true, "0" * 64))
    assert "are not the weights that model.json describes" in fault()
    checkpoints, _ = fresh()
    shutil.rmtree(checkpoints.parent / read(checkpoints)["checkpoints"][-1]["path"])
    assert "is not the checkpoint that training wrote" in fault()
    fresh()
    # No file may grow beyond 100 kB: what the disk answers then is what it answers when it is full, in the same calls.
    limited = f"ulimit -f 100; exec {sys.executable} {' '.join(export(finished, results, results / 'tiny/export'))}"
    done = subprocess.run(["bash", "-c", limited], cwd=finished, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("ERROR: "))
    assert "model.safetensors: cannot be written" in error and "free some space" in error
    assert {path: (results / "tiny/export" / path.relative_to(exported)).read_bytes() for path in before} == before
