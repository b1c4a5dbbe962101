r"""Stage `export`: the final adapters merged into the base as a Hugging Face folder, and alone in PEFT's format.

Where all weights were trained, there are no adapters: the folder alone.

  python scripts/export.py --results results --recipe tiny --output results/tiny/export

Reads the artifacts of a finished recipe. Writes config.json, the tokenizer's files, generation_config.json,
safetensors, adapter/, base/ (where no hub has it: a miniature's), NOTICE, README.md (the model card) and,
last, export.json (hashes of all files, and how far the logits of the written model are from those of the measured one).
"""

import argparse
import contextlib
import gc
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.report import model_card

REPLACING = ".replacing.json"  # names of the files of an earlier export and of the one that takes its place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of all artifacts")
    parser.add_argument("--recipe", required=True, help="name of a recipe, or of its run")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    recipe = arguments.results / arguments.recipe
    _require_finished(recipe)
    chosen = stage_settings(
        str(recipe / "settings.yaml"), "mesh", "dataset", "model", "prompt", "training", "evaluation"
    )
    model = arguments.results / "models" / chosen["model"]["name"]
    facts = model_card.facts(arguments.results, arguments.recipe)
    jax_setup.configure_jax()
    known = earlier_files(arguments.output)
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
        replace(arguments.output, known, making, manifest["files"].keys())
    files.write_json(arguments.output / "export.json", manifest)
    (arguments.output / REPLACING).unlink()
    size = sum((arguments.output / name).stat().st_size for name in manifest["files"])
    print(f"{arguments.output}: {len(manifest['files'])} files, {size / 2**20:.1f} MiB", flush=True)


def earlier_files(output: Path) -> set[str]:
    """Names of what an earlier export left in its folder, also one that was killed.

    Raises:
      PipelineError: the folder has files, but no export made them.
    """
    for name in (REPLACING, "export.json"):
        if (output / name).is_file():
            return set(files.read_json_object(output / name).get("files", ()))
    others = [path.name for path in output.glob("*") if not path.name.startswith(".making.")]
    if others:
        raise PipelineError(
            f"--output: {output} has other files ({min(others)}) and is no folder of an export; name a new or an empty "
            "one"
        )
    return set()


def replace(output: Path, known: set[str], making: Path, made: Iterable[str]) -> None:
    """Puts new files in the place of an earlier export's; what else is in the folder stays (a .git, your notes).

    Everything is made; only renames are left. export.json says that the rest is whole, so it goes last.
    """
    files.write_json(output / REPLACING, {"files": sorted(known.union(made))})
    (output / "export.json").unlink(missing_ok=True)
    for name in known:
        (output / name).unlink(missing_ok=True)
    for folder in {(output / name).parent for name in known} - {output}:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
    for name in made:
        (output / name).parent.mkdir(exist_ok=True)
        (making / name).replace(output / name)


def _require_finished(recipe: Path) -> None:
    """Raises PipelineError where what the export tells of has not been made."""
    for name in (
        "settings.yaml",
        "training/checkpoints.json",
        "training/summary.json",
        "evaluations/base/metrics.json",
        "evaluations/final/metrics.json",
        "best.json",
        "comparison.json",
    ):
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
    from gsm8k_grpo.huggingface import weight_writing
    from gsm8k_grpo.huggingface.model_folder import write_model_files
    from gsm8k_grpo.models import storage
    from gsm8k_grpo.models.base_model import checkpoint_folder, stored_checkpoint

    about = files.read_json(model / "model.json")
    trained = files.read_json(recipe / "training" / "checkpoints.json")
    checkpoint = checkpoint_folder(about["sha256"], recipe / "training" / "checkpoints.json", "final")
    weights = storage.Stored(model / "weights")
    print(f"reading {model / 'weights'}", flush=True)
    if storage.arrays_hash(weights) != about["sha256"]["weights"]:
        raise PipelineError(
            f"{model / 'weights'}: are not the weights that model.json describes (another hash); make them again with "
            "--forcerun base_model"
        )
    lora, architecture = trained["lora"], about["architecture"]
    learned, adapted, scale, named = stored_checkpoint(checkpoint), {}, 0.0, None
    if lora:
        adapted, scale = weight_writing.lora_factors(architecture, dict(learned)), lora["alpha"] / lora["rank"]
    print(f"merging {len(adapted)} adapters of {checkpoint}" if lora else f"reading {checkpoint}", flush=True)
    common = (architecture, weights, weights.shape, about["dtype"])
    merged = weight_writing.write_weights(folder, *common, adapted, scale, trained=None if lora else learned)
    weight_writing.require_change(merged, about["dtype"])
    write_model_files(folder, model, about, chosen["evaluation"])
    if lora:
        named = model_card.base_model(about["origin"])
        if not named:
            (folder / "base").mkdir()
            weight_writing.write_weights(folder / "base", *common, {}, 0.0)
            write_model_files(folder / "base", model, about, chosen["evaluation"])
        named = named or base_folder.as_posix()
        weight_writing.write_adapter(folder / "adapter", adapted, lora, named, about["origin"].get("commit"))
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
    from gsm8k_grpo.huggingface import agreement
    from gsm8k_grpo.models import tokenizers
    from gsm8k_grpo.models.base_model import load_base_model, load_checkpoint
    from gsm8k_grpo.models.mesh import make_mesh

    mesh = make_mesh(chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    evaluated = recipe / "evaluations" / "final"
    split = files.read_json(evaluated / "metrics.json")["split"]
    prompts = {row["id"]: row["prompt"] for row in files.read_jsonl(recipe / "prompts" / f"{split}.jsonl")}
    completed = [row for row in files.read_jsonl(evaluated / "completions.jsonl") if row["sample"] == 0]

    def trained() -> tuple[list, list, int]:
        loaded = load_base_model(model, mesh)
        encode, pad_id = loaded.tokenizer.encode, loaded.tokenizer.pad_id()
        rows = [
            (
                tokenizers.with_bos(loaded.tokenizer, encode(prompts[row["id"]])),
                [*encode(row["completion"]), loaded.stop_ids[0]],
            )
            for row in completed[: agreement.COMPARED_ROWS]
        ]
        checkpoints = recipe / "training" / "checkpoints.json"
        policy = load_checkpoint(loaded, checkpoints, "final", mesh)
        return rows, agreement.completion_logits(policy, rows, pad_id), pad_id

    rows, measured, pad_id = trained()
    gc.collect()
    exported = agreement.load_exported(folder, about["architecture"], about["dtype"], mesh)
    found = agreement.compare_logits(measured, agreement.completion_logits(exported, rows, pad_id))
    print(
        f"logits of the written model against the measured one: at most {found['largest_difference']:.2g} apart "
        f"(up to {found['largest_logit']:.3g} in size), {found['same_next_token']:.1%} the same next token",
        flush=True,
    )
    return found


if __name__ == "__main__":
    run_stage(main)
