r"""Stage `base_model`: the weights and the tokenizer that training starts from.

  python scripts/base_model.py --settings results/tiny/settings.yaml --output results/models/tiny \
      --rows results/data/word-problems/train.jsonl

Writes weights/ (Orbax), tokenizer.model, provenance.json and, last, model.json (source, architecture, parameters,
hashes): the same weights have the same model.json, so that making them again reruns nothing.
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo import files, habits, hubs, prompts, runtime, settings, tokenizers
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.errors import PipelineError, run_stage


def pretrain(model_settings: Mapping, rows: list[dict], tokenizer_file: Path) -> tuple[object, dict]:
    """A miniature trained from scratch on demonstrations of the rows; its tokenizer is written on the way."""
    from gsm8k_grpo import models, pretraining

    recipe, architecture = model_settings["pretraining"], model_settings["architecture"]
    shown = [prompts.build(recipe["system"], row["question"]) for row in rows]
    imitated = habits.demonstrations(rows, recipe, Tags(**recipe["tags"]), recipe["seed"])
    texts = [prompt + completion for prompt, completion in zip(shown, imitated, strict=True)]
    tokenizer_file.write_bytes(tokenizers.train(texts, architecture["vocabulary_size"]))
    tokenizer = tokenizers.load(tokenizer_file)
    stop_id = tokenizer.piece_to_id(prompts.STOP_TOKENS["gemma"])
    data = pretraining.pack(
        [[tokenizer.bos_id(), *ids] for ids in tokenizer.encode(shown)],
        [[*ids, stop_id] for ids in tokenizer.encode(imitated)],
        tokenizer.pad_id(),
        recipe["max_tokens"],
    )
    model = models.initialise(models.config(architecture), recipe["seed"])
    print(
        f"pretraining {models.count_parameters(model):,} parameters for {recipe['steps']} steps of "
        f"{recipe['batch_size']} of {len(data.tokens):,} rows, {data.tokens.shape[1]} tokens each "
        f"({len(rows) - len(data.tokens):,} longer rows left out)",
        flush=True,
    )
    pretraining.train(model, data, recipe, recipe["seed"], tokenizer.pad_id())
    return model, {"source": "pretrained", "seed": recipe["seed"], "rows": len(data.tokens)}


def from_flax(folder: Path, model_settings: Mapping, tokenizer_file: Path) -> object:
    """Gemma 2 as published on Kaggle (Flax)."""
    from tunix.models.gemma import model as gemma
    from tunix.models.gemma import params

    vocabularies, checkpoints = sorted(folder.glob("tokenizer*.model")), sorted(folder.glob("*/_METADATA"))
    shutil.copyfile(vocabularies[0], tokenizer_file)
    tokenizers.load(tokenizer_file)
    version = {"gemma2_2b": "2-2b"}[model_settings["architecture"]]
    return gemma.Gemma.from_params(params.load_and_format_params(str(checkpoints[0].parent)), version=version)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs the block model")
    parser.add_argument("--rows", type=Path, help="normalised train rows (source pretrained)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    chosen = settings.stage_settings(arguments.settings, "model")["model"]
    arguments.output.mkdir(parents=True, exist_ok=True)
    for left_over in arguments.output.glob(".making.*"):  # of a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    runtime.configure_jax()
    from gsm8k_grpo import models

    with tempfile.TemporaryDirectory(dir=arguments.output, prefix=".making.") as making:
        tokenizer_file, weights = Path(making, "tokenizer.model"), Path(making, "weights")
        if chosen["source"] == "pretrained":
            if not arguments.rows:
                raise PipelineError("--rows: a pretrained miniature needs the rows to pretrain on")
            rows = files.read_jsonl(arguments.rows, keys=("question", "solution", "answer"))
            model, origin = pretrain(chosen, rows, tokenizer_file)
        else:
            folder, origin = hubs.fetch_model(chosen)
            if (folder / "config.json").is_file():
                raise PipelineError(f"{folder}: safetensors cannot be read yet; use the Flax weights of Kaggle")
            model = from_flax(folder, chosen, tokenizer_file)
        models.save(model, weights)
        manifest = {
            "name": chosen["name"],
            "origin": origin,
            "architecture": chosen["architecture"],
            "dtype": chosen["dtype"],
            "parameters": models.count_parameters(model),
            "sha256": {"weights": models.weights_hash(model), "tokenizer": files.sha256_file(tokenizer_file)},
        }
        # Everything is made; only renames are left. model.json says that the rest is whole, so it goes last.
        (arguments.output / "model.json").unlink(missing_ok=True)
        shutil.rmtree(arguments.output / "weights", ignore_errors=True)
        weights.replace(arguments.output / "weights")
        tokenizer_file.replace(arguments.output / "tokenizer.model")
    files.write_json(arguments.output / "provenance.json", runtime.provenance())
    files.write_json(arguments.output / "model.json", settings.thawed(manifest))


if __name__ == "__main__":
    run_stage(main)
