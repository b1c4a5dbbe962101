"""The whole pipeline, run for real at the smallest size: artifacts, resumption after a kill, errors of late stages."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from gsm8k_grpo import report

ROOT = Path(__file__).parents[1]
SMALLEST = {
    "dataset": {"train_rows": 300, "test_rows": 20},
    "model": {
        "architecture": {"num_layers": 2, "embed_dim": 32, "hidden_dim": 32, "head_dim": 8},
        "pretraining": {"steps": 3, "batch_size": 8},
    },
    "prompt": {"dev_rows": 20},
    "training": {
        "max_steps": 4,
        "checkpoint_interval_steps": 2,
        "prompts_per_step": 2,
        "micro_batch_prompts": 2,
        "num_generations": 2,
    },
    "evaluation": {"batch_size": 8},
}


def snakemake(folder, *arguments):
    """Runs Snakemake in a copy of the project; returns (exit status, everything printed)."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
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


def test_every_artifact_of_the_contract_is_there_with_its_keys(finished):
    results = finished / "results"
    assert rows(results / "data/word-problems/test.jsonl")[0].keys() == {"id", "question", "solution", "answer"}
    assert (
        read(results / "models/tiny/model.json")["parameters"]
        == 32 * 640 + 2 * (32 * 4 * 8 * 2 + 2 * 32 * 2 * 8 + 3 * 32 * 32 + 4 * 32) + 32
    )
    for split, count in (("train", 280), ("dev", 20), ("test", 20)):
        prompts = rows(results / f"tiny/prompts/{split}.jsonl")
        assert len(prompts) == count
        assert prompts[0].keys() == {"id", "prompt", "answer", "prompt_tokens"}
    assert [kept["name"] for kept in read(results / "tiny/training/checkpoints.json")["checkpoints"]] == [
        "step-2",
        "final",
    ]
    for checkpoint in ("base", "step-2", "final"):
        metrics = read(results / f"tiny/evaluations/{checkpoint}/metrics.json")
        assert (metrics["checkpoint"], metrics["split"], metrics["decoding"]) == (checkpoint, "test", "greedy")
        for rate in (
            "answer_accuracy",
            "partial_accuracy",
            "format_accuracy",
            "strict_accuracy",
            "flexible_accuracy",
            "truncated_rate",
        ):
            assert metrics[rate].keys() == {"value", "low", "high", "n"}
            assert 0 <= metrics[rate]["low"] <= metrics[rate]["value"] <= metrics[rate]["high"] <= 1
            assert metrics[rate]["n"] == 20
        completions = rows(results / f"tiny/evaluations/{checkpoint}/completions.jsonl")
        assert [row["id"] for row in completions] == [f"test-{index:05d}" for index in range(20)]
        assert metrics["answer_accuracy"]["value"] == sum(row["strict_correct"] for row in completions) / 20
    assert yaml.safe_load((results / "tiny/settings.yaml").read_text())["training"]["max_steps"] == 4
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
    assert all(math.isfinite(value) for value in metrics.to_numpy().ravel())
    named = [f"reward_{name}" for name in ("format_exact", "format_approximate", "answer", "number")]
    assert metrics[named].sum(axis=1).to_numpy() == pytest.approx(metrics["reward"].to_numpy())


def test_every_rule_left_a_log_and_long_stages_show_rate_and_time_left(finished):
    logs = finished / "results/logs"
    for name in ("data/word-problems/download", "tiny/prompts", "tiny/train", "tiny/evaluate-final", "report"):
        assert (logs / f"{name}.log").is_file()
    assert "steps/s, 0 s left" in (logs / "tiny/train.log").read_text()
    assert "steps/s, 0 s left" in (logs / "models/tiny/base_model.log").read_text()


def test_the_report_says_what_the_artifacts_say(finished):
    page = (finished / "results/report.html").read_text(encoding="utf-8")
    final = read(finished / "results/tiny/evaluations/final/metrics.json")
    assert f"{100 * final['format_accuracy']['value']:.1f} %" in page
    assert "no significant change" in page  # four steps teach nothing, and the words say so
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_hostile_completions_are_shown_as_text(finished, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(finished / "results", results, ignore=shutil.ignore_patterns("cache", "weights", "runs"))
    hostile = [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "nul \x00 bell \x07 right-to-left \u202e isolate \u2066 lone \ud800",
        "{{ 7 * 7 }} {% raw %} $x^2$ **bold**",
        "x" * 1_000_000,
    ]
    path = results / "tiny/evaluations/base/completions.jsonl"
    changed = [{**row, "completion": hostile[index % 5]} for index, row in enumerate(rows(path))]
    path.write_text("".join(json.dumps(row) + "\n" for row in changed))
    page = report.render(results, ["tiny"])
    page.encode("utf-8")
    assert "<script" not in page and "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "⟨U+202E⟩" in page and "⟨U+D800⟩" in page and "\u202e" not in page and "\x00" not in page
    assert "{{ 7 * 7 }}" in page
    assert "… and 996,000 characters more" in page and len(page) < 2_000_000


def test_the_same_artifacts_give_the_same_report(finished):
    page = finished / "results/report.html"
    before = page.read_bytes()
    done = subprocess.run(
        [sys.executable, "scripts/report.py", "--recipes", "tiny", "--results", "results", "--output", "again.html"],
        cwd=finished,
    )
    assert done.returncode == 0
    assert (finished / "again.html").read_bytes() == before


def train(folder, output):
    """Starts the stage `train` by hand, writing elsewhere."""
    return subprocess.Popen(
        [
            *(sys.executable, "scripts/train.py", "--settings", "results/tiny/settings.yaml"),
            *("--rows", "results/tiny/prompts/train.jsonl", "--model", "results/models/tiny", "--output", str(output)),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_training_resumes_to_the_same_bits(finished, tmp_path):
    killed = train(finished, tmp_path)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/checkpoints/actor/2/_CHECKPOINT_METADATA")):
        assert killed.poll() is None and time.monotonic() < deadline, "ended before its first checkpoint"
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "metrics.csv").exists()
    resumed = train(finished, tmp_path)
    assert resumed.wait() == 0, resumed.stderr.read()

    uninterrupted = finished / "results/tiny/training"
    seconds = ["rollout_seconds", "update_seconds"]
    first, second = (pd.read_csv(folder / "metrics.csv").drop(columns=seconds) for folder in (uninterrupted, tmp_path))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert weights(uninterrupted) == weights(tmp_path)


def weights(folder):
    """Hashes of the arrays of the final checkpoint: adapters and optimizer state."""
    import jax
    import orbax.checkpoint as ocp

    (run,) = folder.glob("runs/*")
    found = {}
    for item in ("model_params", "optimizer_state"):
        with ocp.PyTreeCheckpointer() as checkpointer:
            restored = checkpointer.restore((run / "checkpoints/actor/4" / item).absolute())
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
            found[item + jax.tree_util.keystr(path)] = leaf.tobytes()
    assert len(found) > 20
    return found


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
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(chosen))
    error = fails(
        finished,
        *("scripts/evaluate.py", "--settings", str(tmp_path / "settings.yaml"), "--output", str(tmp_path / "base")),
        *("--rows", "results/tiny/prompts/test.jsonl", "--model", "results/models/tiny"),
    )
    assert "too little memory" in error and "evaluation.batch_size" in error


def test_a_damaged_checkpoint_or_missing_weights_are_named(finished, tmp_path):
    copy = tmp_path / "training"
    shutil.copytree(finished / "results/tiny/training", copy)
    (damaged,) = copy.glob("runs/*/checkpoints/actor/4/model_params/manifest.ocdbt")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    evaluate = ("scripts/evaluate.py", "--settings", "results/tiny/settings.yaml", "--output", str(tmp_path / "final"))
    prompts = ("--rows", "results/tiny/prompts/test.jsonl")
    checkpoint = ("--checkpoint", "final", "--checkpoints", str(copy / "checkpoints.json"))
    error = fails(finished, *evaluate, *prompts, "--model", "results/models/tiny", *checkpoint)
    assert "actor/4" in error and "--forcerun train" in error
    resumed = train(finished, copy)
    _, printed = resumed.communicate()  # Orbax's own threads print their complaints too
    error = next(line for line in printed.splitlines() if line.startswith("ERROR: "))
    assert resumed.returncode == 1
    assert "newest checkpoint cannot be restored" in error and f"move {copy}/runs/" in error
    model = tmp_path / "model"
    shutil.copytree(finished / "results/models/tiny", model)
    shutil.rmtree(model / "weights")
    error = fails(finished, *evaluate, *prompts, "--model", str(model))
    assert f"{model}/weights" in error and "--forcerun base_model" in error
