"""Miniatures of the other families through every stage that computes: pretraining, GRPO, evaluation.

(Gemma 2's go through the whole pipeline in test_pipeline.py.)
"""

import json
import os
import subprocess
import sys

import pytest

from gsm8k_grpo.common import files
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.models import families

# As if on a command line with several stages: JAX is imported once.
PROGRAM = """
import importlib, json, sys
for stage, *arguments in json.loads(input()):
    sys.argv = [stage, *arguments]
    print("stage", stage, flush=True)
    importlib.import_module(stage).main()
"""


@pytest.mark.parametrize("name", ["gemma3", "qwen2"])
def test_a_miniature_is_pretrained_trained_and_evaluated(name, tmp_path):
    family = families.FAMILIES[name]
    # Of texts that mean nothing yet, the published rewards are all equal.
    (tmp_path / "mine.py").write_text(
        "def letters(prompts, completions, answers):\n"
        "    return [float(sum(map(str.isalpha, text))) for text in completions]\n"
    )
    chosen = effective_settings(
        "tiny",
        {
            "dataset": {"train_rows": 100, "test_rows": 6},
            "model": {
                "architecture": {
                    "family": name,
                    "num_layers": 6 if name == "gemma3" else 2,  # the sixth is Gemma 3's first global one
                    "embed_dim": 32,
                    "hidden_dim": 32,
                    "num_heads": 4,
                    "num_kv_heads": 1 if name == "gemma3" else 2,
                    "head_dim": 8,
                    "vocabulary_size": 500,
                    "sliding_window_tokens": 16 if family.windowed else None,  # shorter than the prompts
                },
                "pretraining": {"steps": 3, "batch_size": 4, "max_tokens": 160},
            },
            "prompt": {"dev_rows": 20, "max_tokens": 96},
            "training": {
                **{"max_steps": 2, "checkpoint_interval_steps": 1, "prompts_per_step": 2, "micro_batch_prompts": 2},
                **{"num_generations": 2, "advantage_estimator": "rloo", "max_completion_tokens": 8},
                "rewards": [f"{tmp_path}/mine.py:letters"],
                "lora": {"target_modules": list(family.modules), "base_weights": "int8" if name == "qwen2" else None},
            },
            "evaluation": {"batch_size": 3, "max_completion_tokens": 8, "selection_rows": 20},
        },
    )
    text, train, test = json.dumps(chosen), "data/train.jsonl", "data/test.jsonl"
    rows, checkpoints = ["--rows", "prompts/test.jsonl"], ["--checkpoints", "training/checkpoints.json"]
    stages = [
        ["download", "--output", "data"],
        ["base_model", "--rows", train, "--output", "model"],
        ["prompts", "--train", train, "--test", test, "--model", "model", "--output", "prompts"],
        ["train", "--rows", "prompts/train.jsonl", "--model", "model", "--output", "training"],
        ["evaluate", *rows, "--model", "model", *checkpoints, "--checkpoint", "final", "--output", "final"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([[*stage, "--settings", text] for stage in stages]),
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": str(ROOT / "scripts"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    asked = files.read_jsonl(tmp_path / "prompts" / "test.jsonl", ("prompt", "prompt_tokens"))
    opening = {"gemma3": "<start_of_turn>user\nReason", "qwen2": "<|im_start|>system\nReason"}[name]
    assert all(row["prompt"].startswith(opening) and 16 < row["prompt_tokens"] <= 96 for row in asked)
    history = (tmp_path / "training" / "metrics.csv").read_text().splitlines()
    assert len(history) == 3
    columns = dict(zip(history[0].split(","), history[2].split(","), strict=True))
    assert float(columns["kl"]) > 0 and float(columns["gradient_norm"]) > 0
    completions = files.read_jsonl(tmp_path / "final" / "completions.jsonl", ("completion", "tokens", "stop_reason"))
    assert len(completions) == 6 and all(1 <= row["tokens"] <= 8 for row in completions)
