"""One rule for evaluation: the reading that the recipe chooses is what its answer accuracy and its comparison count."""

import json
import runpy
import sys

import pytest

from gsm8k_grpo import evaluation, files, settings
from gsm8k_grpo.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
BEFORE = ("18", "<answer>18</answer> or 19", "none")
AFTER = ("18", r"<answer>17</answer>, no, \boxed{18}, or 19", r"\boxed{18}, 19")
RIGHT = {"strict": (1, 0), "flexible": (1, 1), "cascade": (2, 3)}  # rows before and after, by each reading


def graded(completions):
    """Rows as the stage `evaluate` writes them."""
    return [
        {"id": str(index), **evaluation.grade(text, "18", TAGS), "tokens": 4 * index, "truncated": index == 2}
        for index, text in enumerate(completions)
    ]


@pytest.mark.parametrize("extraction", RIGHT)
def test_answer_accuracy_is_that_of_the_recipes_extraction(extraction):
    metrics = evaluation.metrics(graded(AFTER), extraction)
    assert metrics["answer_accuracy"] == metrics[f"{extraction}_accuracy"]
    for name, (_, right) in RIGHT.items():
        assert (metrics[f"{name}_accuracy"]["value"], metrics[f"{name}_accuracy"]["n"]) == (right / 3, 3)
    assert (metrics["truncated_rate"]["value"], metrics["mean_completion_tokens"]) == (1 / 3, 4.0)


@pytest.mark.parametrize("extraction", RIGHT)
def test_the_comparison_of_answers_is_by_the_recipes_extraction(root, tmp_path, monkeypatch, extraction):
    files.write_jsonl(tmp_path / "base.jsonl", graded(BEFORE))
    files.write_jsonl(tmp_path / "final.jsonl", graded(AFTER))
    chosen = settings.effective("tiny", {"evaluation": {"extraction": extraction}}, root)
    files.write_json(tmp_path / "settings.yaml", chosen)  # JSON is YAML
    command = ["compare.py", "--settings", str(tmp_path / "settings.yaml"), "--output", str(tmp_path / "out.json")]
    command += ["--base", str(tmp_path / "base.jsonl"), "--final", str(tmp_path / "final.jsonl")]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(root / "scripts" / "compare.py"))["main"]()
    compared = json.loads((tmp_path / "out.json").read_text())
    assert compared["answer"] == compared[extraction]
    for name, (before, after) in RIGHT.items():
        assert compared[name]["fixed"] - compared[name]["broken"] == after - before
