"""What W3 takes where it is there: published weights of Qwen2.5 0.5B and GSM8K's questions, as tokens.

`../shared/real-models/build.py` makes a folder of weights (dequantised from llama.cpp's Q4_K_M) and, beside it, the
file for llama.cpp. Without the folder, weights are random and so are the prompts' tokens.
"""

import dataclasses
import json
import sys
from pathlib import Path

from workloads import Workload

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
WEIGHTS = Path("/tmp/real-models/qwen2.5-coder-0.5b-instruct")
QUESTIONS = ROOT.parent / "shared" / "gsm8k" / "train.jsonl"


def with_real_inputs(workload: Workload, weights: Path = WEIGHTS, questions: Path = QUESTIONS) -> Workload:
    """The workload with the weights' folder and the prompts' tokens, as far as the files are there."""
    if not workload.real or not (weights / "config.json").is_file():
        return workload
    workload = dataclasses.replace(workload, weights=str(weights))
    if not questions.is_file():
        return workload
    from gsm8k_grpo.config.recipes import effective_settings
    from gsm8k_grpo.data.prompts import build_prompt
    from gsm8k_grpo.models.family_qwen2 import TEMPLATE
    from gsm8k_grpo.models.tokenizers import load_tokenizer

    system = effective_settings("minigrpo-fast", {})["prompt"]["system"]
    tokenizer = load_tokenizer(weights / "tokenizer.json", TEMPLATE)
    with questions.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(workload.prompts), strict=False)]
    ids = [tokenizer.encode(build_prompt(system, row["question"], TEMPLATE)) for row in rows]
    return dataclasses.replace(workload, ids=ids, prompt_tokens=max(map(len, ids)))


def inputs(workload: Workload) -> str:
    """What a workload takes, in words."""
    weights = f"weights of {Path(workload.weights).name}" if workload.weights else "random weights"
    return f"{weights}, {'the first questions of GSM8K' if workload.ids else 'prompts of random tokens'}"
