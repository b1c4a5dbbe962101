r"""Stage `base_model`: the weights and the tokenizer that training starts from.

  python scripts/base_model.py --settings results/tiny/settings.yaml --output results/models/tiny \
      --rows results/data/word-problems/train.jsonl

Writes weights/ (Orbax), tokenizer.model, provenance.json and, last, model.json (source, architecture, parameters,
hashes): the same weights have the same model.json, so that making them again reruns nothing. Of a fetched model, what
was beside its weights is kept in published/.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.data import demonstrations, hubs
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from gsm8k_grpo.rewards.answers import Tags


def pretrain(model_settings: Mapping, rows: list[dict], tokenizer_file: Path) -> tuple[dict, dict]:
    """The weights of a miniature trained from scratch on demonstrations of the rows; its tokenizer is written too."""
    from gsm8k_grpo.models import building, pretraining, storage

    recipe, architecture = model_settings["pretraining"], model_settings["architecture"]
    template = family_of(architecture).template
    shown = [build_prompt(recipe["system"], row["question"], template) for row in rows]
    imitated = demonstrations.make_demonstrations(rows, recipe, Tags(**recipe["tags"]), recipe["seed"])
    texts = [prompt + completion for prompt, completion in zip(shown, imitated, strict=True)]
    tokenizer_file.write_bytes(train_tokenizer(texts, architecture["vocabulary_size"], architecture["family"]))
    tokenizer = tokenizers.load_tokenizer(tokenizer_file, template)
    end_of_turn = tokenizers.stop_ids(tokenizer, template)[0]
    data = pretraining.pack_rows(
        [tokenizers.with_bos(tokenizer, ids) for ids in tokenizer.encode(shown)],
        [[*ids, end_of_turn] for ids in tokenizer.encode(imitated)],
        tokenizer.pad_id(),
        recipe["max_tokens"],
    )
    model = building.initialise(building.tunix_config(architecture), recipe["seed"])
    print(
        f"pretraining {building.count_parameters(model):,} parameters for {recipe['steps']} steps of "
        f"{recipe['batch_size']} of {len(data.tokens):,} rows, {data.tokens.shape[1]} tokens each "
        f"({len(rows) - len(data.tokens):,} longer rows left out)",
        flush=True,
    )
    pretraining.pretrain_model(model, data, recipe, recipe["seed"], tokenizer.pad_id())
    return storage.weights_of(model), {"source": "pretrained", "seed": recipe["seed"], "rows": len(data.tokens)}


def convert(folder: Path, architecture: Mapping | str, making: Path) -> dict:
    """The weights of a fetched model; its tokenizer, and what else the folder says of it, are copied into `making`."""
    from gsm8k_grpo.huggingface import weight_reading

    print(f"reading {folder}", flush=True)
    weight_reading.copy_published(folder, making / "published")
    weights, tokenizer_file = weight_reading.read_model(folder, architecture)
    tokenizers.load_tokenizer(tokenizer_file, family_of(architecture).template)
    shutil.copyfile(tokenizer_file, making / "tokenizer.model")
    return weights


def take_over(same: Path, making: Path) -> tuple[dict, dict]:
    """The weights and the origin of a miniature that was pretrained in just the same way; its tokenizer is copied."""
    from flax import traverse_util

    from gsm8k_grpo.models import storage

    print(f"pretrained in the same way as {same}: its weights are taken over", flush=True)
    manifest, stored = files.read_json(same / "model.json"), storage.Stored(same / "weights")
    weights = traverse_util.unflatten_dict({path: stored[path] for path in stored})
    if storage.weights_hash(weights) != manifest["sha256"]["weights"]:
        raise PipelineError(f"{same / 'weights'}: not the weights that model.json names; --forcerun base_model")
    shutil.copyfile(same / "tokenizer.model", making / "tokenizer.model")
    return weights, manifest["origin"]


def write(output: Path, chosen: Mapping, make: Callable[[Path], tuple[dict, dict]]) -> None:
    """Writes a model's folder; until everything is made, what was there stays.

    Args:
      output: results/models/NAME.
      chosen: the block `model`.
      make: writes tokenizer.model (and published/) into the folder that it is given; returns (weights, origin).
    """
    from gsm8k_grpo.models import storage

    output.mkdir(parents=True, exist_ok=True)
    for left_over in output.glob(".making.*"):  # of a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".making.") as temporary:
        making = Path(temporary)
        weights, origin = make(making)
        storage.save(weights, making / "weights")
        manifest = {
            "name": chosen["name"],
            "origin": origin,
            "architecture": chosen["architecture"],
            "dtype": chosen["dtype"],
            "parameters": sum(array.size for array in storage.leaves(weights).values()),
            "sha256": {
                "weights": storage.weights_hash(weights),
                "tokenizer": files.sha256_file(making / "tokenizer.model"),
            },
        }
        # Everything is made; only renames are left. model.json says that the rest is whole, so it goes last.
        (output / "model.json").unlink(missing_ok=True)
        for name in ("weights", "published"):
            shutil.rmtree(output / name, ignore_errors=True)
        for path in making.iterdir():
            path.replace(output / path.name)
    files.write_json(output / "provenance.json", collect_provenance())
    files.write_json(output / "model.json", to_plain(manifest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs the block model")
    parser.add_argument("--rows", type=Path, help="normalised train rows (source pretrained)")
    parser.add_argument("--same", type=Path, help="folder of a miniature that is pretrained in just the same way")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    chosen = stage_settings(arguments.settings, "model")["model"]
    jax_setup.configure_jax()

    def make(making: Path) -> tuple[dict, dict]:
        if chosen["source"] == "pretrained":
            if arguments.same:
                return take_over(arguments.same, making)
            if not arguments.rows:
                raise PipelineError("--rows: a pretrained miniature needs the rows to pretrain on")
            rows = files.read_jsonl(arguments.rows, keys=("question", "solution", "answer"))
            return pretrain(chosen, rows, making / "tokenizer.model")
        folder, origin = hubs.fetch_model(chosen)
        return convert(folder, chosen["architecture"], making), origin

    write(arguments.output, chosen, make)


if __name__ == "__main__":
    run_stage(main)
