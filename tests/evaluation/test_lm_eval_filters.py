"""Our readings beside lm-evaluation-harness's filters, on completions whose disagreements are known."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.rewards.answers import Tags

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("LM_EVAL_PYTHON", ROOT / ".venv-lm-eval" / "bin" / "python"))
TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
COMPLETIONS = {
    "the same": ("So 9 * 2 = 18.\n#### 18", "18"),
    "wrong for both": ("So 9 * 2 = 19.\n#### 19", "18"),
    "tags": ("<reasoning>9 * 2 = 18</reasoning>\n<answer>18</answer>", "18"),
    "another form": ("It costs 18.00 dollars.\n#### 18.00", "18"),
    "no number": ("I do not know.\u2028", "18"),  # other line ends than "\n" stand in a completion as they are
}


def test_each_disagreement_is_listed_with_its_kind(tmp_path):
    if not PYTHON.exists():
        pytest.skip("needs `make setup-lm-eval`")
    rows = [
        {"id": name, "sample": 0, "completion": text, "answer": gold, **grade_completion(text, gold, TAGS, "strict")}
        for name, (text, gold) in COMPLETIONS.items()
    ]
    completions, output = tmp_path / "completions.jsonl", tmp_path / "disagreements.jsonl"
    completions.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    command = [PYTHON, ROOT / "benchmarks/lm_eval_filters.py", "--completions", completions, "--output", output]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(each["filter"], each["id"], each["kind"]) for each in found] == [
        ("strict-match", "tags", "only we read a number"),
        ("strict-match", "another form", "the same number, another form"),
        ("flexible-extract", "another form", "the same number, another form"),
    ]
    assert all(each["ours_correct"] and not each["harness_correct"] for each in found)
    assert "strict-match: 20.00% right; our strict: 60.00%; 2 disagreements" in printed
