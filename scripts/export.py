r"""Stage `export`: the final adapters merged into the base as a Hugging Face folder, and alone in PEFT's format.

  python scripts/export.py --results results --recipe tiny --output results/tiny/export

Reads the artifacts of a finished recipe. Writes config.json, the tokenizer's files, generation_config.json,
safetensors, adapter/, base/ (where no hub has it: a miniature's), NOTICE, README.md (the model card) and,
last, export.json (hashes of all files, and how far the logits of the written model are from those of the measured one).
"""

import argparse
import gc
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo import files, model_card, runtime, settings
from gsm8k_grpo.errors import PipelineError, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of all artifacts")
    parser.add_argument("--recipe", required=True, help="name of a recipe, or of its run")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    recipe = arguments.results / arguments.recipe
    _require_finished(recipe)
    chosen = settings.stage_settings(
        str(recipe / "settings.yaml"), "mesh", "dataset", "model", "prompt", "training", "evaluation"
    )
    model = arguments.results / "models" / chosen["model"]["name"]
    facts = model_card.facts(arguments.results, arguments.recipe)
    runtime.configure_jax()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for left_over in arguments.output.glob(".making.*"):  # of a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=arguments.output, prefix=".making.") as temporary:
        making = Path(temporary)
        manifest = make(making, recipe, model, chosen, arguments.output / "base")
        (making / "NOTICE").write_text(model_card.notice(facts), encoding="utf-8")
        (making / "README.md").write_text(model_card.render(facts, manifest), encoding="utf-8")
        manifest["files"] = {
            path.relative_to(making).as_posix(): files.sha256_file(path)
            for path in sorted(making.rglob("*"))
            if path.is_file()
        }
        # Everything is made; only renames are left. export.json says that the rest is whole, so it goes last.
        (arguments.output / "export.json").unlink(missing_ok=True)
        for path in arguments.output.iterdir():
            if path != making:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in making.iterdir():
            path.replace(arguments.output / path.name)
    files.write_json(arguments.output / "export.json", manifest)
    size = sum((arguments.output / name).stat().st_size for name in manifest["files"])
    print(f"{arguments.output}: {len(manifest['files'])} files, {size / 2**20:.1f} MiB", flush=True)


def _require_finished(recipe: Path) -> None:
    """Raises PipelineError where training or its evaluation has not come to an end."""
    for name in ("training/checkpoints.json", "training/summary.json", "evaluations/final/metrics.json"):
        if not (recipe / name).is_file():
            raise PipelineError(
                f"{recipe / name}: no such file: {recipe.name} has not finished; run snakemake --cores 1 "
                f"results/{recipe.name}/export/export.json, which makes all that is missing"
            )


def make(folder: Path, recipe: Path, model: Path, chosen: Mapping, base_folder: Path) -> dict:
    """Writes weights, adapters and what belongs to them.

    Args:
      folder: where to.
      recipe: results/RECIPE.
      model: results/models/NAME.
      chosen: effective settings.
      base_folder: where a base will lie that no hub has, such as a miniature's.

    Returns:
      the manifest, but for the hashes of files.
    """
    from gsm8k_grpo import base, export, hf_folder, models

    about = files.read_json(model / "model.json")
    trained = files.read_json(recipe / "training" / "checkpoints.json")
    if trained["lora"] is None:
        raise PipelineError(
            f"{recipe}: all weights were trained (training.lora: null), and only adapters can be exported; the weights "
            "are in the Orbax checkpoint that training/checkpoints.json names"
        )
    checkpoint = base.checkpoint_folder(about["sha256"], recipe / "training" / "checkpoints.json", "final")
    weights = models.Stored(model / "weights")
    print(f"reading {model / 'weights'}", flush=True)
    if models.arrays_hash(weights) != about["sha256"]["weights"]:
        raise PipelineError(
            f"{model / 'weights'}: are not the weights that model.json describes (another hash); make them again with "
            "--forcerun base_model"
        )
    lora, architecture = trained["lora"], about["architecture"]
    adapted = export.factors(architecture, base.read_adapters(checkpoint))
    print(f"merging {len(adapted)} adapters of {checkpoint}", flush=True)
    common = (architecture, weights, weights.shape, about["dtype"])
    merged = export.write_weights(folder, *common, adapted, lora["alpha"] / lora["rank"])
    export.require_change(merged, about["dtype"])
    hf_folder.write(folder, model, about, chosen["evaluation"])
    named = model_card.base_model(about["origin"])
    if not named:
        (folder / "base").mkdir()
        export.write_weights(folder / "base", *common, {}, 0.0)
        hf_folder.write(folder / "base", model, about, chosen["evaluation"])
    named = named or base_folder.as_posix()
    export.write_adapter(folder / "adapter", adapted, lora, named, about["origin"].get("commit"))
    final = next(kept for kept in trained["checkpoints"] if kept["name"] == "final")
    return {
        "recipe": recipe.name,
        "checkpoint": {key: final[key] for key in ("name", "step", "sha256")},
        "training": trained["fingerprint"],
        "base": {"name": about["name"], "origin": about["origin"], "sha256": about["sha256"]},
        "adapter_base": named,
        "dtype": about["dtype"],
        "lora": lora,
        "adapted_weights": merged.weights,
        "changed_weights": merged.changed,
        "update_error": merged.update_error,
        "agreement": agreement(folder, recipe, model, about, chosen),
    }


def agreement(folder: Path, recipe: Path, model: Path, about: Mapping, chosen: Mapping) -> dict:
    """Logits of the model as it was measured against those of the files just written, loaded one after the other."""
    from gsm8k_grpo import agreement, base, models, tokenizers

    mesh = models.make_mesh(chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    evaluated = recipe / "evaluations" / "final"
    split = files.read_json(evaluated / "metrics.json")["split"]
    prompts = {row["id"]: row["prompt"] for row in files.read_jsonl(recipe / "prompts" / f"{split}.jsonl")}
    completed = [row for row in files.read_jsonl(evaluated / "completions.jsonl") if row["sample"] == 0]

    def trained() -> tuple[list, list, int]:
        loaded = base.load(model, mesh)
        encode, pad_id = loaded.tokenizer.encode, loaded.tokenizer.pad_id()
        rows = [
            (
                tokenizers.with_bos(loaded.tokenizer, encode(prompts[row["id"]])),
                [*encode(row["completion"]), loaded.stop_ids[0]],
            )
            for row in completed[: agreement.ROWS]
        ]
        checkpoints = recipe / "training" / "checkpoints.json"
        policy = base.load_checkpoint(loaded, checkpoints, "final", mesh)
        return rows, agreement.logits(policy, rows, pad_id), pad_id

    rows, measured, pad_id = trained()
    gc.collect()
    exported = agreement.load_exported(folder, about["architecture"], about["dtype"], mesh)
    found = agreement.compare(measured, agreement.logits(exported, rows, pad_id))
    print(
        f"logits of the written model against the measured one: at most {found['largest_difference']:.2g} apart "
        f"(up to {found['largest_logit']:.3g} in size), {found['same_next_token']:.1%} the same next token",
        flush=True,
    )
    return found


if __name__ == "__main__":
    run_stage(main)
