"""The rewards of evaluated completions are those of training, row by row."""

import json

import pytest
import yaml

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import scoring
from gsm8k_grpo.rewards.answers import Tags


@pytest.fixture
def results(tmp_path):
    synthetic.make(tmp_path, "one", 10, 10, overtrained=True)
    return tmp_path / "one"


@pytest.fixture
def score(run_script, results):
    """Runs the stage and returns the path of its rows."""

    def run():
        inputs = {name: results / "evaluations" / name / "completions.jsonl" for name in ("base", "final", "best")}
        paths = {"settings": results / "settings.yaml", "rows": results / "prompts/test.jsonl", **inputs}
        output = results / "again.jsonl"
        run_script(
            *("score", "--output", output), *(part for name, path in paths.items() for part in (f"--{name}", path))
        )
        return output

    return run


def test_each_row_has_each_reward_before_and_after(results, score):
    settings = yaml.safe_load((results / "settings.yaml").read_text())
    settings["training"]["rewards"] = ["answer", "minigrpo"]
    (results / "settings.yaml").write_text(yaml.safe_dump(settings))
    found = files.read_jsonl(score())
    prompts = files.read_jsonl(results / "prompts/test.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in prompts]
    for side in ("base", "final", "best"):
        texts = [row["completion"] for row in files.read_jsonl(results / f"evaluations/{side}/completions.jsonl")]
        expected = scoring.score(["answer", "minigrpo"], prompts, texts, Tags.of(settings["prompt"]))
        assert {name: [row[side][name] for row in found] for name in expected} == expected


def test_the_settings_say_how_much_reasoning_is_enough(results, score):
    def kept(words):
        settings = yaml.safe_load((results / "settings.yaml").read_text())
        settings["prompt"]["reasoning"] = {"calculations": None, "words": words}
        (results / "settings.yaml").write_text(yaml.safe_dump(settings))
        return sum(row["final"]["format_exact"] for row in files.read_jsonl(score()))

    assert kept(1) == 3.0 * 10 and kept(10_000) == 0


def test_the_first_of_several_samples_is_scored(results, score):
    final = results / "evaluations/final/completions.jsonl"
    several = [
        {**row, "sample": sample, "completion": row["completion"] if not sample else "no"}
        for row in files.read_jsonl(final)
        for sample in (0, 1)
    ]
    final.write_text("".join(json.dumps(row) + "\n" for row in several))
    assert score().read_bytes() == (results / "rewards.jsonl").read_bytes()


def test_other_rows_are_an_error(results, score):
    final = results / "evaluations/final/completions.jsonl"
    first, *others = files.read_jsonl(final)
    files.write_jsonl(final, others)
    with pytest.raises(PipelineError, match="do not hold the same rows; evaluate both again"):
        score()
    files.write_jsonl(final, [{**first, "id": "elsewhere"}])
    with pytest.raises(PipelineError, match="no prompt has the id 'elsewhere'"):
        score()
