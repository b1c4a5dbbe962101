"""Rewards of evaluated completions: those of training, row by row."""

import json
import subprocess
import sys

import pytest
import yaml

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.rewards import scoring
from gsm8k_grpo.rewards.answers import Tags


@pytest.fixture
def results(tmp_path):
    synthetic.make(tmp_path, "one", 10, 10, overtrained=True)
    return tmp_path / "one"


def score(root, results, **changed):
    """Runs the stage; returns its process and the file that it writes."""
    output = results / "again.jsonl"
    paths = {
        "settings": results / "settings.yaml",
        "rows": results / "prompts/test.jsonl",
        "base": results / "evaluations/base/completions.jsonl",
        "final": results / "evaluations/final/completions.jsonl",
        "best": results / "evaluations/best/completions.jsonl",
        "output": output,
    } | changed
    options = [part for name, path in paths.items() for part in (f"--{name}", path)]
    done = subprocess.run([sys.executable, root / "scripts" / "score.py", *options], capture_output=True, text=True)
    return done, output


def test_each_reward_of_each_row_before_and_after(root, results):
    settings = yaml.safe_load((results / "settings.yaml").read_text())
    settings["training"]["rewards"] = ["answer", "minigrpo"]
    (results / "settings.yaml").write_text(yaml.safe_dump(settings))
    done, output = score(root, results)
    assert done.returncode == 0, done.stderr
    found = files.read_jsonl(output)
    asked = files.read_jsonl(results / "prompts/test.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in asked]
    for side in ("base", "final", "best"):
        texts = [row["completion"] for row in files.read_jsonl(results / f"evaluations/{side}/completions.jsonl")]
        wanted = scoring.score(["answer", "minigrpo"], asked, texts, Tags(**settings["prompt"]["tags"]))
        assert {name: [row[side][name] for row in found] for name in wanted} == wanted


def test_of_several_samples_the_first_is_scored_and_other_rows_are_an_error(root, results):
    final = results / "evaluations/final/completions.jsonl"
    rows = files.read_jsonl(final)
    several = [
        {**row, "sample": sample, "completion": row["completion"] if not sample else "no"}
        for row in rows
        for sample in (0, 1)
    ]
    final.write_text("".join(json.dumps(row) + "\n" for row in several))
    done, output = score(root, results)
    assert done.returncode == 0 and output.read_bytes() == (results / "rewards.jsonl").read_bytes()
    final.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    done, _ = score(root, results)
    assert done.returncode == 1 and "not the same rows; evaluate both again" in done.stderr
    final.write_text(json.dumps({**rows[0], "id": "elsewhere"}) + "\n")
    done, _ = score(root, results)
    assert done.returncode == 1 and "'elsewhere' is the id of no prompt" in done.stderr
    assert "Traceback" not in done.stderr
