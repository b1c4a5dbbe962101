"""Fetched models through the whole pipeline: from a hub on the loopback, by its real client, to training and export.

Kaggle has a Flax checkpoint of Gemma 2, Hugging Face has Qwen2.5 in several safetensors files. Both are small and
random.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from flax import nnx

from gsm8k_grpo.common import files
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.huggingface import agreement
from gsm8k_grpo.models import building, families, storage, tokenizers
from gsm8k_grpo.models.base_model import load_base_model, load_checkpoint
from gsm8k_grpo.models.mesh import make_mesh
from loopback_hubs import COMMIT, CREDENTIALS, KAGGLE_VERSION, SECRETS, Hubs, Repository
from published_models import SIZES, random_weights, write_flax, write_folder
from small_models import left_padded

pytestmark = [pytest.mark.slow, pytest.mark.parity]
# Runs several stages in one process, so that JAX is imported once.
PROGRAM = """
import importlib, json
from gsm8k_grpo.common.command_line import make_app
for stage, *arguments in json.loads(input()):
    print("stage", stage, flush=True)
    make_app(importlib.import_module(stage).main)(arguments)
"""
KNOWN = CREDENTIALS["huggingface"] | CREDENTIALS["kaggle"]
CASES = {
    # (family, handle, revision)
    "kaggle": ("gemma2", "someone/gemma-2/flax/small", KAGGLE_VERSION),
    "huggingface": ("qwen2", "someone/small", COMMIT),
}


def run_settings(source, folder, lora=True):
    family, handle, revision = CASES[source]
    # The published rewards of random texts are all equal, which would train nothing.
    (folder / "mine.py").write_text(
        "def letters(prompts, completions, answers):\n"
        "    return [float(sum(map(str.isalpha, text))) for text in completions]\n"
    )
    return effective_settings(
        "tiny",
        {
            "dataset": {"train_rows": 24, "test_rows": 4},
            "model": {
                **{"name": "small", "source": source, "handle": handle, "revision": revision},
                **{"architecture": SIZES[family], "pretraining": None},
            },
            "prompt": {"dev_rows": 8, "max_tokens": 200},
            "training": {
                **{"max_steps": 2, "checkpoint_interval_steps": 2, "prompts_per_step": 2, "micro_batch_completions": 4},
                **{"num_generations": 2, "advantage_estimator": "rloo", "max_completion_tokens": 8},
                "beta": 0,  # no reference to compile
                "rewards": [f"{folder}/mine.py:letters"],
                "lora": {"target_modules": list(families.FAMILIES[family].lora_modules)} if lora else None,
            },
            "evaluation": {"split": "dev", "batch_size": 8, "max_completion_tokens": 8, "selection_rows": None},
        },
    )


def stages_of(name, folder, recipe):
    """From prompts to the export; writes the recipe's settings."""
    run = f"results/{name}"
    (folder / run).mkdir(parents=True)
    (folder / run / "settings.yaml").write_text(yaml.safe_dump(to_plain(recipe)))
    settings, model = ["--settings", f"{run}/settings.yaml"], ["--model", "results/models/small"]
    training = f"{run}/training"
    rows = ["--rows", f"{run}/prompts/dev.jsonl"]
    trained = ["--checkpoints", f"{training}/checkpoints.json", "--checkpoint", "final"]
    base_rows, final_rows = (f"{run}/evaluations/{each}/completions.jsonl" for each in ("base", "final"))
    metrics = [f"{run}/evaluations/{each}/metrics.json" for each in ("base", "final")]
    compared = ["--base", base_rows, "--final", final_rows, "--best", final_rows]
    same = ["--same", "results/small/evaluations/base/metrics.json"] if name != "small" else []
    return [
        ["train", *settings, "--rows", f"{run}/prompts/train.jsonl", *model, "--output", training],
        ["evaluate", *settings, *rows, *model, *same, "--output", f"{run}/evaluations/base"],
        ["evaluate", *settings, *rows, *model, *trained, "--output", f"{run}/evaluations/final"],
        ["best", "--metrics", *metrics, "--output", f"{run}/best.json"],
        ["compare", *settings, *compared, "--output", f"{run}/comparison.json"],
        ["export", "--results", "results", "--recipe", name, "--output", f"{run}/export"],
    ]


@pytest.fixture(scope="module", params=CASES)
def fetched(request, tmp_path_factory):
    """A fetched, trained and exported model: its folder, source, family, published weights, and the served folder."""
    source, folder = request.param, tmp_path_factory.mktemp(request.param)
    family, handle, _ = CASES[source]
    weights = random_weights(family, 0.3)
    served = write_folder(folder / "published", family, weights, shards=3)
    if source == "kaggle":
        tokenizer = (served / "tokenizer.model").read_bytes()
        served = folder / "flax"
        write_flax(served / "small", SIZES[family], weights)
        (served / "tokenizer.model").write_bytes(tokenizer)
    hub = Hubs(folder)
    contents = {path.relative_to(served).as_posix(): path.read_bytes() for path in served.rglob("*") if path.is_file()}
    getattr(hub, source)[f"model/{handle}"] = Repository(contents, gated=True)

    text, model, data = (
        json.dumps(to_plain(run_settings(source, folder))),
        "results/models/small",
        "results/data/word-problems",
    )
    asked = ["--train", f"{data}/train.jsonl", "--test", f"{data}/test.jsonl"]
    stages = [
        ["download", "--settings", text, "--output", data],
        ["base_model", "--settings", text, "--output", model],
        ["prompts", "--settings", text, *asked, "--model", model, "--output", "results/small/prompts"],
        *stages_of("small", folder, run_settings(source, folder)),
    ]
    if source == "huggingface":  # a second run on the same prompts trains all weights
        stages += stages_of("whole", folder, run_settings(source, folder, lora=False))
        (folder / "results/whole/prompts").symlink_to("../small/prompts")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(stages),
        env=hub.environment(PYTHONPATH=str(ROOT / "scripts"), JAX_PLATFORMS="cpu", **KNOWN),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    hub.close()
    (folder / "log").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    assert any(request.authorised for request in hub.requests)
    return SimpleNamespace(folder=folder, source=source, family=family, weights=weights, served=served)


def load(fetched):
    return load_base_model(fetched.folder / "results/models/small", make_mesh(1, 1))


def as_published(fetched):
    """The published weights in our model, without our files."""
    graph, state = nnx.split(building.structure(building.tunix_config(SIZES[fetched.family])))
    nnx.replace_by_pure_dict(state, fetched.weights)
    return nnx.merge(graph, state)


def test_a_fetched_model_computes_the_published_models_logits(fetched):
    results = fetched.folder / "results"
    manifest = files.read_json(results / "models/small/model.json")
    assert manifest["sha256"]["weights"] == storage.weights_hash(fetched.weights)
    assert (manifest["origin"].get("version"), manifest["origin"].get("commit")) == (
        (KAGGLE_VERSION, None) if fetched.source == "kaggle" else (None, COMMIT)
    )
    loaded = load(fetched)
    asked = files.read_jsonl(results / "small/prompts/dev.jsonl", ("id", "prompt"))
    said = files.read_jsonl(results / "small/evaluations/base/completions.jsonl", ("id", "completion", "tokens"))
    assert [row["id"] for row in asked] == [row["id"] for row in said] and len(said) == 8
    encode, pad_id = loaded.tokenizer.encode, loaded.tokenizer.pad_id()
    rows = [
        (tokenizers.with_bos(loaded.tokenizer, encode(row["prompt"])), encode(each["completion"]) or [4])
        for row, each in zip(asked, said, strict=True)
    ]
    found, expected = (
        agreement.completion_logits(each, rows, pad_id) for each in (loaded.model, as_published(fetched))
    )
    assert max(np.abs(each).max() for each in expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_export_is_the_trained_model(fetched):
    export = fetched.folder / "results/small/export"
    manifest = files.read_json(export / "export.json")
    assert manifest["changed_weights"] > 0.9 * manifest["adapted_weights"] > 0
    assert manifest["agreement"]["largest_difference"] < 1e-4 < 0.1 < manifest["agreement"]["largest_logit"]
    assert manifest["checkpoint"]["step"] == 2
    # A model that was published in this format names its hub; of another, the export contains the base.
    named = {"kaggle": "results/small/export/base", "huggingface": "someone/small"}[fetched.source]
    assert manifest["adapter_base"] == named
    assert files.read_json(export / "adapter/adapter_config.json")["base_model_name_or_path"] == named
    generation, loaded = files.read_json(export / "generation_config.json"), load(fetched)
    assert generation["eos_token_id"] == list(loaded.stop_ids)


def test_transformers_and_peft_agree_with_the_trained_model(fetched):
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    from logits import LENGTHS, PAD, our_logits, their_logits

    results, tokens = fetched.folder / "results", left_padded(LENGTHS, 400, PAD)
    real = tokens != PAD

    def opened(folder):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")
        assert model.dtype == torch.float32
        return model.eval()

    def measured(name):
        checkpoints = results / name / "training/checkpoints.json"
        return our_logits(load_checkpoint(load(fetched), checkpoints, "final", make_mesh(1, 1)), tokens)

    expected, export = measured("small"), results / "small/export"
    alone = opened(export / "base" if fetched.source == "kaggle" else fetched.served)
    assert np.abs(their_logits(alone, tokens) - expected)[real].max() > 1e-3  # the base is another model
    for model in (opened(export), peft.PeftModel.from_pretrained(alone, export / "adapter")):
        np.testing.assert_allclose(their_logits(model, tokens)[real], expected[real], rtol=0, atol=1e-4)
    if fetched.source == "huggingface":
        whole = measured("whole")
        assert np.abs(whole - expected)[real].max() > 1e-3
        np.testing.assert_allclose(
            their_logits(opened(results / "whole/export"), tokens)[real], whole[real], rtol=0, atol=1e-4
        )


def test_a_model_of_which_all_weights_were_trained_is_exported_without_adapters(fetched):
    if fetched.source == "kaggle":
        pytest.skip("trained with adapters alone")
    export = fetched.folder / "results/whole/export"
    manifest = files.read_json(export / "export.json")
    parameters = files.read_json(fetched.folder / "results/models/small/model.json")["parameters"]
    assert manifest["lora"] is None and manifest["adapter_base"] is None
    assert manifest["adapted_weights"] == parameters >= manifest["changed_weights"] > 0.5 * parameters
    assert manifest["agreement"]["largest_difference"] < 1e-4 < 0.1 < manifest["agreement"]["largest_logit"]
    assert not (export / "adapter").exists() and not (export / "base").exists()
    card = (export / "README.md").read_text("utf-8")
    assert "2 steps of GRPO, all its weights (float32)." in card and "adapter" not in card.split("All settings")[0]


def test_no_token_is_left_below_the_folder(fetched):
    read = 0
    for path in Path(fetched.folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in SECRETS), path
            read += 1
    assert read > 60


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])  # Qwen2.5 is among `CASES`
def test_a_sharded_model_comes_from_hugging_face_and_loads(tmp_path, family):
    hub, weights = Hubs(tmp_path), random_weights(family)
    folder = write_folder(tmp_path / "published", family, weights, shards=3)
    hub.huggingface["model/someone/small"] = Repository({path.name: path.read_bytes() for path in folder.iterdir()})
    settings = {"name": "small", "source": "huggingface", "handle": "someone/small", "revision": COMMIT, "path": None}
    settings |= {"architecture": SIZES[family], "dtype": "float32", "pretraining": None}
    command = [sys.executable, str(ROOT / "scripts" / "base_model.py"), "--settings", json.dumps({"model": settings})]
    status, text = hub.run([*command, "--output", str(tmp_path / "model")], cwd=tmp_path, JAX_PLATFORMS="cpu")
    hub.close()
    assert status == 0, text
    manifest = files.read_json(tmp_path / "model" / "model.json")
    assert manifest["origin"]["commit"] == COMMIT and manifest["origin"]["warning"] is None
    assert manifest["sha256"]["weights"] == storage.weights_hash(weights)
    assert load_base_model(tmp_path / "model", make_mesh(1, 1)).sha256 == manifest["sha256"]
