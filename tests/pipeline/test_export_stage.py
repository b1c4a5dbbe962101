"""The stage `export`."""

import hashlib
import os
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import yaml

from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation.asking import Asker
from gsm8k_grpo.report import model_card
from small_models import completed
from small_run import fails, read, rows, snakemake


def export(folder, results, output):
    """The stage by hand."""
    return ("scripts/export.py", "--results", str(results), "--recipe", "tiny", "--output", str(output))


def test_the_export_is_whole_and_its_card_says_what_the_artifacts_say(finished, exported):
    manifest = read(exported / "export.json")
    found = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert found == {*manifest["files"], "export.json"}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja"):
        assert {name, f"base/{name}"} <= found
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "NOTICE"} <= found
    for name, sha256 in manifest["files"].items():
        assert sha256 == hashlib.sha256((exported / name).read_bytes()).hexdigest()
    assert manifest["training"] == read(finished / "results/tiny/training/checkpoints.json")["fingerprint"]
    assert manifest["checkpoint"]["step"] == 4 and 0 < manifest["changed_weights"] <= manifest["adapted_weights"]
    assert manifest["agreement"]["rows"] == 8 and manifest["agreement"]["largest_difference"] < 1e-5
    assert manifest["agreement"]["same_next_token"] == 1.0
    text = (exported / "README.md").read_text(encoding="utf-8")
    card = huggingface_hub.ModelCard(text)
    final, base = (read(finished / f"results/tiny/evaluations/{name}/metrics.json") for name in ("final", "base"))
    answer = next(result for result in card.data.eval_results if "own reading" in result.metric_name)
    assert answer.metric_value == round(100 * final["answer_accuracy"]["value"], 2)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    for rate in ("answer_accuracy", "format_accuracy", "flexible_accuracy"):
        for measured in (base, final):
            low, high = (f"{100 * measured[rate][end]:.1f}" for end in ("low", "high"))
            assert f"{100 * measured[rate]['value']:.1f} % ({low}–{high})" in text
    assert "google-tunix 0.1.7" in text and "learning_rate: 0.0015" in text and "\n20 test rows" in text
    assert read(finished / "results/models/tiny/model.json")["sha256"]["weights"] in text
    # It is no part of the report, and is not made again for nothing.
    assert "Nothing to be done" in snakemake(finished, "results/report.html")[1]
    assert "Nothing to be done" in snakemake(finished, "results/tiny/export/export.json")[1]


@pytest.mark.parity
def test_the_export_gives_the_same_prompts_and_greedy_answers_in_transformers_and_peft(finished, exported):
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    from gsm8k_grpo.generation.cache_length import cache_tokens
    from gsm8k_grpo.generation.sampler import Sampler
    from gsm8k_grpo.models import tokenizers
    from gsm8k_grpo.models.base_model import load_base_model, load_checkpoint
    from gsm8k_grpo.models.mesh import make_mesh

    settings = yaml.safe_load((finished / "results/tiny/settings.yaml").read_text())
    questions = {
        row["id"]: row["question"]
        for split in ("train", "test")
        for row in rows(finished / f"results/data/word-problems/{split}.jsonl")
    }
    asked = [row for split in ("test", "train") for row in rows(finished / f"results/tiny/prompts/{split}.jsonl")][:50]
    prompts = [row["prompt"] for row in asked]
    mesh, limits = make_mesh(1, 1), (settings["prompt"]["max_tokens"], 36)
    loaded = load_base_model(finished / "results/models/tiny", mesh)
    trained = load_checkpoint(loaded, finished / "results/tiny/training/checkpoints.json", "final", mesh)
    sampler = Sampler(trained, loaded.tokenizer, cache_tokens(*limits), mesh)
    found = completed(sampler, prompts, 50, *limits, loaded.stop_ids, mesh)

    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    chats = [
        [{"role": "system", "content": settings["prompt"]["system"]}, {"role": "user", "content": questions[row["id"]]}]
        for row in asked
    ]
    ids = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == [tokenizers.with_bos(loaded.tokenizer, loaded.tokenizer.encode(prompt)) for prompt in prompts]
    batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}

    def answers(model):
        with torch.no_grad():
            output = model.eval().generate(**batch)[:, batch["input_ids"].shape[1] :]
        own = tokenizer.batch_decode(output, skip_special_tokens=True)
        texts = []
        for ids, text in zip(output.tolist(), own, strict=True):
            kept = ids[: next((place for place, each in enumerate(ids) if each in loaded.stop_ids), None)]
            texts.append(loaded.tokenizer.decode(kept))
            # A model of three steps writes special tokens, and bytes that are no UTF-8: the two treat both differently.
            plain = loaded.tokenizer.decode([each for each in kept if each not in special])
            assert text == plain or "\ufffd" in plain
        return texts

    def load(folder):
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")

    expected = [found[index, 0].text for index in range(50)]
    assert answers(load(exported)) == expected
    alone = load(exported / "base")
    assert read(exported / "adapter/adapter_config.json")["base_model_name_or_path"] == "results/tiny/export/base"
    assert answers(peft.PeftModel.from_pretrained(alone, exported / "adapter")) == expected


@pytest.mark.slow
def test_the_export_for_tunix_answers_by_the_code_of_its_card_and_needs_nothing_of_this_project(finished, exported):
    status, printed = snakemake(finished, "results/tiny/export-tunix/README.md")
    assert status == 0, printed
    folder = finished / "results/tiny/export-tunix"
    manifest, other = read(folder / "export.json"), read(exported / "export.json")
    assert manifest["checkpoint"] == other["checkpoint"] and manifest["tunix"]["class"] == "Gemma"
    card = huggingface_hub.ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    assert card.data.library_name == "tunix" and "safetensors" not in " ".join(manifest["files"])
    code = card.text.partition("```python\n")[2].partition("```")[0]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = stage_settings(str(finished / "results/tiny/settings.yaml"), "mesh", "model", "prompt", "evaluation")
    training = finished / "results/tiny/training/checkpoints.json"
    asked = Asker(settings, finished / "results/models/tiny", training, ["final"]).ask(model_card.QUESTION, "final")
    assert done.stdout == f"{asked.text}\n"


@pytest.mark.slow
def test_the_same_artifacts_give_the_same_export(finished, exported, tmp_path):
    done = subprocess.run([sys.executable, *export(finished, "results", tmp_path / "again")], cwd=finished)
    assert done.returncode == 0
    first, second = (read(folder / "export.json") for folder in (exported, tmp_path / "again"))
    # The adapters name the folder of their base.
    assert first.pop("adapter_base") != second.pop("adapter_base")
    assert first["files"].pop("adapter/adapter_config.json") != second["files"].pop("adapter/adapter_config.json")
    assert first == second


@pytest.mark.slow
def test_what_cannot_be_exported_is_said_in_one_sentence_and_loses_no_finished_export(finished, exported, tmp_path):
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    results = tmp_path / "results"

    def fresh():
        shutil.rmtree(results, ignore_errors=True)
        shutil.copytree(finished / "results", results, ignore=shutil.ignore_patterns("cache"))
        return results / "tiny/training/checkpoints.json", results / "models/tiny/model.json"

    def fault():
        error = fails(finished, *export(finished, results, results / "tiny/export"))
        kept = {path: (results / "tiny/export" / path.relative_to(exported)).read_bytes() for path in before}
        assert kept == before and not list((results / "tiny/export").glob(".making.*"))
        return error

    checkpoints, _ = fresh()
    checkpoints.unlink()
    error = fault()
    assert "tiny has not finished; run snakemake" in error and "results/tiny/export/export.json" in error
    _, model = fresh()
    model.write_text(model.read_text().replace(read(model)["sha256"]["weights"], "0" * 64))
    assert "were trained on another base model" in fault()
    checkpoints, model = fresh()
    true = read(model)["sha256"]["weights"]
    for path in (checkpoints, model):  # as if both were right, but other weights lie there
        path.write_text(path.read_text().replace(true, "0" * 64))
    assert "models/tiny/weights: has changed since it was made" in fault()
    checkpoints, _ = fresh()
    shutil.rmtree(checkpoints.parent / read(checkpoints)["checkpoints"][-1]["path"])
    assert "is not the checkpoint that training wrote" in fault()
    fresh()
    # No file may grow beyond 100 kB: what the disk answers then is what it answers when it is full, in the same calls.
    limited = f"ulimit -f 100; exec {sys.executable} {' '.join(export(finished, results, results / 'tiny/export'))}"
    done = subprocess.run(["bash", "-c", limited], cwd=finished, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("ERROR: "))
    assert "model.safetensors: cannot be written" in error and "free some space" in error
    assert {path: (results / "tiny/export" / path.relative_to(exported)).read_bytes() for path in before} == before
