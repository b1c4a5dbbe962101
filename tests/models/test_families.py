"""A family of models is one object that the rest of the library asks, and each family goes through all that computes.

(Gemma 2 goes through the whole pipeline in tests/pipeline.)
"""

import ast
import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from gsm8k_grpo.common import files
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.huggingface import config_json, published_model, tensor_names, weight_reading
from gsm8k_grpo.models import building, families, tokenizers
from gsm8k_grpo.models.family import Licence
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from gsm8k_grpo.report import model_card
from small_models import FAMILIES

LIBRARY = ROOT / "scripts"


def test_each_family_has_a_published_shape():
    assert {sizes["family"] for sizes in families.PRESETS.values()} == families.FAMILIES.keys()


def test_no_module_outside_the_families_compares_their_names():
    """Neither in comparisons and keys of Python, nor in templates."""
    templates = {family.template.name for family in families.FAMILIES.values()}
    names = families.FAMILIES.keys() | families.PRESETS.keys() | templates
    for path in LIBRARY.rglob("*.py"):
        if path.name.startswith("family_"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked = []
            if isinstance(node, ast.Compare):
                asked = [node.left, *node.comparators]
            elif isinstance(node, ast.Dict):
                asked = node.keys
            elif isinstance(node, ast.Subscript) and getattr(node.value, "attr", None) not in ("FAMILIES", "PRESETS"):
                asked = [node.slice]
            elif isinstance(node, ast.MatchValue):
                asked = [node.value]
            elements = [each for part in asked if part for each in getattr(part, "elts", [part])]
            found = names & {each.value for each in elements if isinstance(each, ast.Constant)}
            assert not found, f"{path}, line {node.lineno}: {found}"
    for path in LIBRARY.rglob("*.j2"):
        assert not [name for name in names if f'"{name}"' in path.read_text()], path


@pytest.fixture
def invented(monkeypatch):
    """A family that no module knows: Qwen2.5's computation with Gemma's tokenizer and other texts."""
    gemma, qwen = families.FAMILIES["gemma3"], families.FAMILIES["qwen2"]
    family = dataclasses.replace(
        qwen,
        name="invented",
        title="Invented",
        template=dataclasses.replace(gemma.template, name="invented", no_system="Think. "),
        system_role=False,
        tokenizer=dataclasses.replace(gemma.tokenizer, files=("pieces.model",)),
        model_types=("invented_text", "qwen2"),
        layer_tensors=lambda sizes: [
            dataclasses.replace(entry, names=tuple(f"invented.{name}" for name in entry.names))
            for entry in qwen.layer_tensors(sizes)
        ],
        licence=lambda architecture, handle: Licence("mine", "my terms", "here", "Under my terms."),
        kaggle_handles=("maker/invented/", "maker/hub-"),
    )
    monkeypatch.setitem(families.FAMILIES, "invented", family)
    monkeypatch.setitem(building.MODEL_CLASSES, "invented", building.MODEL_CLASSES["qwen2"])
    return family


def test_a_family_that_is_registered_works_everywhere(invented, tmp_path):
    sizes = {**FAMILIES["qwen2"], "family": "invented", "num_layers": 1, "vocabulary_size": 400}
    template = families.family_of(sizes).template
    assert (
        build_prompt("", " Why? ", template) == "<start_of_turn>user\nThink. Why?<end_of_turn>\n<start_of_turn>model\n"
    )

    (tmp_path / "pieces.model").write_bytes(train_tokenizer(["to be or not to be"] * 20, 380, "invented"))
    tokenizer = tokenizers.load_tokenizer(published_model.tokenizer_file(tmp_path, sizes), template)
    assert tokenizer.piece_to_id("<start_of_turn>") == 105 and len(tokenizer) == 380

    model, tokens = building.initialise(building.tunix_config(sizes), seed=0), jnp.arange(8)[None]
    logits = jax.eval_shape(lambda: model(tokens, tokens, None, jnp.tri(8, dtype=bool)[None])[0])
    assert logits.shape == (1, 8, 400)
    table = tensor_names.tensor_table(sizes)
    assert {entry.path for entry in table} == weight_reading.expected_shapes(sizes).keys()
    assert table[1].names[0].startswith("model.layers.0.invented.")
    matrices = [leaf for leaf in jax.tree.leaves(nnx.state(model)) if leaf.ndim > 1]
    biases = sizes["num_layers"] * (sizes["num_heads"] + 2 * sizes["num_kv_heads"]) * sizes["head_dim"]
    counted = sum(leaf.size for leaf in matrices)
    assert counted - families.approximate_parameters(sizes) in (0, biases)

    config = config_json.transformers_config(sizes)
    assert (config.vocab_size, config.architectures) == (400, ["Qwen2ForCausalLM"])
    config.save_pretrained(tmp_path)
    config_json.check_config(tmp_path, sizes)
    assert families.hub_name("maker/invented/small") == "maker/hub-small"
    origin = {"source": "huggingface", "handle": "maker/hub-small"}
    assert model_card.licence({"origin": origin, "architecture": sizes}).title == "my terms"


# Runs several stages in one process, which imports JAX once.
PROGRAM = """
import importlib, json
from gsm8k_grpo.common.command_line import make_app
for stage, *arguments in json.loads(input()):
    print("stage", stage, flush=True)
    make_app(importlib.import_module(stage).main)(arguments)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "qwen2"])
def test_a_miniature_is_pretrained_trained_and_evaluated(name, tmp_path):
    family = families.FAMILIES[name]
    # The published rewards are equal for all texts of an untrained model; this one differs.
    (tmp_path / "mine.py").write_text(
        "def letters(prompts, completions, answers):\n"
        "    return [float(sum(map(str.isalpha, text))) for text in completions]\n"
    )
    settings = effective_settings(
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
                **{"max_steps": 2, "checkpoint_interval_steps": 1, "prompts_per_step": 2, "micro_batch_completions": 4},
                **{"num_generations": 2, "advantage_estimator": "rloo", "max_completion_tokens": 8},
                "rewards": [f"{tmp_path}/mine.py:letters"],
                "lora": {
                    "target_modules": list(family.lora_modules),
                    "base_weights": "int8" if name == "qwen2" else None,
                },
            },
            "evaluation": {"batch_size": 3, "max_completion_tokens": 8, "selection_rows": 20},
        },
    )
    text, train, test = json.dumps(settings), "data/train.jsonl", "data/test.jsonl"
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
            "PYTHONPATH": str(ROOT / "scripts"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    prompts = files.read_jsonl(tmp_path / "prompts" / "test.jsonl", ("prompt", "prompt_tokens"))
    opening = {"gemma3": "<start_of_turn>user\nReason", "qwen2": "<|im_start|>system\nReason"}[name]
    assert all(row["prompt"].startswith(opening) and 16 < row["prompt_tokens"] <= 96 for row in prompts)
    history = (tmp_path / "training" / "metrics.csv").read_text().splitlines()
    assert len(history) == 3
    columns = dict(zip(history[0].split(","), history[2].split(","), strict=True))
    assert float(columns["kl"]) > 0 and float(columns["gradient_norm"]) > 0
    completions = files.read_jsonl(tmp_path / "final" / "completions.jsonl", ("completion", "tokens", "stop_reason"))
    assert len(completions) == 6 and all(1 <= row["tokens"] <= 8 for row in completions)
