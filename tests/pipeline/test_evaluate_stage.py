"""The stage `evaluate`: taking rows over, going on after a kill, loading checkpoints."""

import json
import subprocess
import sys
import time

import pytest
import yaml

from gsm8k_grpo.common.errors import NOT_FINISHED_STATUS, PipelineError
from small_models import completed
from small_run import ended, read, rows


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


def test_a_row_that_no_number_answers_is_completed_and_counts_apart(finished, tmp_path):
    first, second, *_ = rows(finished / "results/tiny/prompts/test.jsonl")
    asked = [first, second | {"id": "plus-1", "answer": None, "group": "lacks a fact"}]
    (tmp_path / "asked.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in asked))
    chosen = yaml.safe_load((finished / "results/tiny/settings.yaml").read_text())
    chosen["evaluation"] |= {"rows": None}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(chosen))
    command = [sys.executable, "scripts/evaluate.py", "--settings", tmp_path / "settings.yaml", "--split", "test"]
    command += ["--rows", tmp_path / "asked.jsonl", "--model", "results/models/tiny", "--output", tmp_path / "made"]

    def evaluate(*more):
        return ended(subprocess.Popen([*command, *more], cwd=finished, stdout=subprocess.PIPE, text=True))

    evaluate()
    answered, apart = rows(tmp_path / "made/completions.jsonl")
    assert answered["completion"] == rows(finished / "results/tiny/evaluations/base/completions.jsonl")[0]["completion"]
    assert (apart["answer"], apart["strict_correct"], type(apart["abstained"])) == (None, False, bool)
    metrics = read(tmp_path / "made/metrics.json")
    assert metrics["answer_accuracy"]["n"] == metrics["truncated_rate"]["n"] == 1
    assert "lacks a fact" not in metrics.get("groups", {})
    assert "its rows are taken over" in evaluate("--same", tmp_path / "made/metrics.json")


@pytest.mark.slow
def test_a_killed_or_stopped_evaluation_goes_on_to_the_same_rows(finished, tmp_path):
    chosen = yaml.safe_load((finished / "results/tiny/settings.yaml").read_text())
    chosen["evaluation"] |= {"temperature": 1.0, "samples": 3, "batch_size": 4}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(chosen))

    def start(output, *more):
        command = [sys.executable, "scripts/evaluate.py", "--settings", tmp_path / "settings.yaml"]
        command += ["--rows", "results/tiny/prompts/test.jsonl", "--model", "results/models/tiny"]
        command += ["--checkpoints", "results/tiny/training/checkpoints.json", "--checkpoint", "step-2"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, "--output", output, *more], cwd=finished, **pipes)

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    ended(start(whole))
    killed = start(stopped)
    deadline = time.monotonic() + 300
    while not any(len(path.read_bytes().splitlines()) > 2 for path in stopped.glob("unfinished-*.jsonl")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    printed = ended(start(stopped, "--stop-after", "0"), NOT_FINISHED_STATUS)
    assert "of 60 completions are saved; run the same command again" in printed
    assert not (stopped / "metrics.json").exists()
    assert "of 60 completions" in ended(start(stopped))
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
    assert measured["starts"] == 1 and read(stopped / "metrics.json")["starts"] == 3
    timings = ("seconds", "tokens_per_second", "provenance", "starts")
    first, second = (read(folder / "metrics.json") for folder in (whole, stopped))
    assert {k: v for k, v in first.items() if k not in timings} == {k: v for k, v in second.items() if k not in timings}


@pytest.mark.slow
@pytest.mark.parametrize("all_weights", [False, True], ids=["adapters", "all weights"])
def test_each_checkpoint_loads_by_itself_to_the_same_greedy_completions(finished, tmp_path, all_weights):
    from gsm8k_grpo.common import files
    from gsm8k_grpo.config.merging import read_only, to_plain
    from gsm8k_grpo.generation.cache_length import cache_tokens
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
    # With a control, rewards differ in every group, so each step changes the weights.
    how = {**chosen["training"], "control": "random", "lora": lora, "learning_rate": 0.02 if all_weights else 1.5e-3}
    policy = make_policy(loaded.model, lora, chosen["seed"], mesh)
    run = Run(tmp_path, chosen["training"]["num_iterations"])
    rl_cluster = tunix_setup.make_rl_cluster(
        policy, reference.model, loaded.tokenizer, mesh, how, limits[0], loaded.stop_ids, 0, run
    )
    learner = Learner(rl_cluster, how, Tags.of(chosen["prompt"]), prompts, 0, loaded.stop_ids)
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
