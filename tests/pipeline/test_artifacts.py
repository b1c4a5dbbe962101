"""The pipeline at its smallest, from nothing to the report: every artifact of the contract."""

import math
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from gsm8k_grpo.report.metric_catalogue import panels_of
from loopback_hubs import SECRETS
from small_run import fails, read, rows, snakemake


def test_a_second_call_says_that_there_is_nothing_to_be_done(finished):
    status, printed = snakemake(finished, "results/report.html")
    assert status == 0
    assert "Nothing to be done" in printed


@pytest.mark.slow
@pytest.mark.parametrize("keeps_time", [True, False])
def test_a_changed_verdict_of_the_reward_audit_is_found_and_made_good(finished, keeps_time, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    audit = folder / "results/tiny/reward_audit.json"
    whole, before = audit.read_bytes(), audit.stat()
    audit.write_bytes(whole.replace(b'"pays_as_honest": true', b'"pays_as_honest": false'))
    assert audit.read_bytes() != whole
    if keeps_time:
        os.utime(audit, ns=(before.st_atime_ns, before.st_mtime_ns))
    status, printed = snakemake(folder, "results/report.html")
    assert status == 0 and "Audit what the rewards of tiny pay for" in printed, printed
    assert audit.read_bytes() == whole


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
    row = {"id", "question", "solution", "answer"}
    assert rows(results / "data/word-problems/train.jsonl")[0].keys() == row
    assert rows(results / "data/word-problems/test.jsonl")[0].keys() == row | {"group"}
    assert (
        read(results / "models/tiny/model.json")["parameters"]
        == 32 * 640 + 2 * (32 * 8 * 8 * 2 + 2 * 32 * 4 * 8 + 3 * 32 * 32 + 4 * 32) + 32
    )
    for split, count in (("train", 280), ("dev", 20), ("test", 20)):
        prompts = rows(results / f"tiny/prompts/{split}.jsonl")
        assert len(prompts) == count
        group = {"group"} if split == "test" else set()
        assert prompts[0].keys() == {"id", "prompt", "answer", "prompt_tokens"} | group
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
        of_groups = {name: rates["answer_accuracy"]["n"] for name, rates in metrics.get("groups", {}).items()}
        assert of_groups == ({} if split == "dev" else {"in_distribution": 10, "held_out": 10})
    compared = read(results / "tiny/comparison.json")
    assert {name: verdicts["flexible"]["n"] for name, verdicts in compared["groups"].items()} == of_groups
    assert yaml.safe_load((results / "tiny/settings.yaml").read_text())["training"]["max_steps"] == 4
    trained = read(results / "tiny/training/summary.json")
    assert trained["starts"] == [0] and trained["memory"]["host_peak_bytes"] > 2**20
    weights = 4 * read(results / "models/tiny/model.json")["parameters"]  # float32
    (adapters,) = re.findall(r"^([\d,]+) LoRA parameters on", (results / "logs/tiny/train.log").read_text(), re.M)
    kept = weights + 3 * 4 * int(adapters.replace(",", ""))  # with Adam's two moments
    assert kept <= trained["memory"]["held_bytes"] < kept + weights  # one copy of the weights
    audit = read(results / "tiny/reward_audit.json")
    assert audit["sources"]["gold"]["n"] == 20 and audit["sources"]["gold"]["honest"]["total"] == 9.5
    assert audit["sources"]["gold"]["edits"].keys() == audit["edits"].keys()
    (started,) = (results / "tiny/training/runs").glob("*/starts.json")
    assert (results / "tiny/reward_audit.json").stat().st_mtime_ns < started.stat().st_mtime_ns  # before the first step
    rewarded = rows(results / "tiny/rewards.jsonl")
    assert [row["id"] for row in rewarded] == [f"test-{index:05d}" for index in range(20)]
    for side in ("base", "final", "best"):
        assert all(row[side].keys() == {"format_exact", "format_approximate", "answer", "number"} for row in rewarded)
        exact = [row["format_correct"] for row in rows(results / f"tiny/evaluations/{side}/completions.jsonl")]
        assert [row[side]["format_exact"] == 3 for row in rewarded] == exact
    for plot in ("accuracy", "training"):
        assert "</svg>" in (results / f"tiny/plots/{plot}.svg").read_text()
    tables = {path.name for path in (results / "tables").iterdir()}
    metrics_of_base = read(results / "tiny/evaluations/base/metrics.json")
    assert tables == {"rates.csv", "rates.tex", "comparisons.csv", "comparisons.tex", "references.bib"}
    assert (
        f"tiny,base,base,0,test,answer_accuracy,{metrics_of_base['answer_accuracy']['value']},"
        in (results / "tables/rates.csv").read_text()
    )
    with_provenance = ("data/word-problems/dataset.json", "tiny/prompts/summary.json", "tiny/training/summary.json")
    for facts in (
        *(read(results / name)["provenance"] for name in with_provenance),
        read(results / "models/tiny/provenance.json"),
    ):
        assert facts["seconds"] > 0 and facts["versions"]["google-tunix"] == "0.1.7"


def test_another_set_is_evaluated_like_the_test_rows(finished):
    folder = finished / "results/tiny/transfer/others"
    data = rows(finished / "results/data/others/test.jsonl")
    assert data[0].keys() == {"id", "question", "solution", "answer", "cluster"} and len(data) == 7
    summary = read(folder / "prompts/summary.json")["splits"]["test"]
    assert summary["rows"] == 6 and [row["id"] for row in summary["left_out"]] == ["others-00006"]
    for name in ("base", "final", "best"):
        completions = rows(folder / name / "completions.jsonl")
        assert [row["id"] for row in completions] == [row["id"] for row in data[:6]]
        assert [row["answer"] for row in completions] == [row["answer"] for row in data[:6]]
        assert read(folder / name / "metrics.json")["decoding"] == "greedy"
    compared = read(finished / "results/tiny/transfer.json")
    others = compared["sets"]["others"]
    assert others["compared"]["answer"]["n"] == 6 and others["compared"]["answer"]["clusters"] == 3
    assert compared["verdict"] == "no gain" and set(compared["overlap"]["sets"]) == {"word-problems", "others"}
    assert compared["overlap"]["train_rows"] == 300
    assert "</svg>" in (finished / "results/tiny/plots/transfer.svg").read_text()
    assert "no gain to carry over" in (finished / "results/report.html").read_text(encoding="utf-8")


def test_metrics_have_one_finite_row_a_step(finished):
    metrics = pd.read_csv(finished / "results/tiny/training/metrics.csv")
    assert metrics["step"].tolist() == [1, 2, 3, 4]
    assert metrics["tokens"].is_monotonic_increasing and metrics["epoch"].tolist() == [
        step / 140 for step in (1, 2, 3, 4)
    ]
    assert (metrics[["rollout_seconds", "reference_seconds", "update_seconds"]] > 0).all(axis=None)
    assert (metrics["checkpoint_seconds"] > 0).tolist() == [False, True, False, True]
    assert all(math.isfinite(value) for value in metrics.drop(columns="calculations_true").to_numpy().ravel())
    # A share of the calculations, where there are some.
    assert (metrics["calculations_true"].notna() == (metrics["calculations"] > 0)).all()
    assert (metrics["unsampled_mass"] == 0).all()  # top_k is null, and top_p is 1
    named = [f"reward_{name}" for name in ("format_exact", "format_approximate", "answer", "number")]
    assert metrics[named].sum(axis=1).to_numpy() == pytest.approx(metrics["reward"].to_numpy())


def test_every_column_that_training_writes_is_in_the_catalogue(finished):
    metrics = pd.read_csv(finished / "results/tiny/training/metrics.csv")
    assert set(metrics) - {"step"} == {column.name for panel in panels_of(metrics) for column in panel.columns}


def test_every_rule_left_a_log_and_long_stages_show_rate_and_time_left(finished):
    logs = finished / "results/logs"
    for name in ("data/word-problems/download", "tiny/prompts", "tiny/train", "tiny/evaluations-final", "report"):
        assert (logs / f"{name}.log").is_file()
    training = (logs / "tiny/train.log").read_text()
    assert re.search(r"training: 4/4 steps, .*, 00:00 left, reward=", training)
    assert "WARNING" not in training
    assert re.search(r"pretraining: 3/3 steps, .*, 00:00 left", (logs / "models/tiny/base_model.log").read_text())


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
    assert "too little memory" in error and "lower evaluation.max_completion_tokens" in error


def test_missing_weights_are_named(finished, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(finished / "results/models/tiny", model)
    shutil.rmtree(model / "weights")
    evaluate = ("scripts/evaluate.py", "--settings", "results/tiny/settings.yaml", "--output", str(tmp_path / "base"))
    error = fails(finished, *evaluate, "--rows", "results/tiny/prompts/test.jsonl", "--model", str(model))
    assert f"{model}/weights: holds no weights; delete {model} and run Snakemake again" in error


def test_a_changed_tokenizer_counts_no_prompts(finished, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(finished / "results/models/tiny", model, ignore=shutil.ignore_patterns("weights"))
    (model / "tokenizer.model").write_bytes((model / "tokenizer.model").read_bytes() + b"\0")
    rows = [f"results/data/word-problems/{split}.jsonl" for split in ("train", "test")]
    common = ("--settings", "results/tiny/settings.yaml", "--model", str(model), "--output", str(tmp_path / "prompts"))
    for command in (("prompts.py", "--train", rows[0], "--test", rows[1]), ("transfer_prompts.py", "--rows", rows[1])):
        error = fails(finished, f"scripts/{command[0]}", *command[1:], *common)
        assert f"{model}/tokenizer.model: has changed since it was made" in error
