"""The export of a finished run: the trained model as a Hugging Face folder, and how it takes an earlier export's place.

JAX loads only after the checks that need no model, so that their errors come at once.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.models.families import hub_name

# The folder of a run in which an export lies, by what can load it.
FOLDERS = {"transformers": "export", "tunix": "export-tunix", "llama.cpp": "export-gguf"}
REPLACING = ".replacing.json"  # the files of an earlier export and of the one that replaces it


def require_finished(results: Path, run: str) -> None:
    """Refuses a run that has not made all the artifacts that the export describes."""
    training = layout.training_folder(results, run)
    needed = [
        layout.settings_file(results, run),
        training / "checkpoints.json",
        training / "summary.json",
        *(layout.evaluation_folder(results, run, name) / "metrics.json" for name in ("base", "final")),
        results / run / "best.json",
        results / run / "comparison.json",
    ]
    for path in needed:
        if not path.is_file():
            raise PipelineError(
                f"{path}: no such file: {run} has not finished; run snakemake --cores 1 "
                f"results/{run}/export/export.json, which makes all that is missing"
            )


def base_name(origin: Mapping) -> str | None:
    """The base's name on the Hugging Face hub, or its folder; None if it has neither: then the export contains it.

    Args:
      origin: `origin` of model.json.
    """
    if origin["source"] == "kaggle":
        return hub_name(origin["handle"])
    return origin.get("handle") or origin.get("path")


def write_model(folder: Path, results: Path, run: str, settings: Mapping, base_folder: Path) -> dict:
    """Writes a run's trained model: weights, adapters, and the files beside them.

    Args:
      folder: where to.
      results, run: the folder of all artifacts, and the run's name in it.
      settings: the run's effective settings.
      base_folder: the later place of a base that no hub has, such as a miniature's.

    Returns:
      the manifest, without the hashes of files.

    Raises:
      PipelineError: artifacts that do not belong together, or a trained model that equals its base.
    """
    from gsm8k_grpo.huggingface import weight_writing
    from gsm8k_grpo.huggingface.agreement import measure_agreement
    from gsm8k_grpo.huggingface.model_folder import write_model_files
    from gsm8k_grpo.models import recorded_hashes, storage
    from gsm8k_grpo.models.base_model import checkpoint_folder, stored_checkpoint

    model = layout.model_folder(results, settings["model"]["name"])
    about = files.read_json(model / "model.json")
    checkpoints = layout.training_folder(results, run) / "checkpoints.json"
    training = files.read_json(checkpoints)
    checkpoint = checkpoint_folder(about["sha256"], checkpoints, "final")
    weights = storage.Stored(model / "weights")
    print(f"reading {model / 'weights'}", flush=True)
    recorded_hashes.require_recorded(model / "weights", storage.arrays_hash(weights), about["sha256"]["weights"])
    recorded_hashes.require_recorded_tokenizer(model, about)
    lora, architecture = training["lora"], about["architecture"]
    trained, adapters, scale, named = stored_checkpoint(checkpoint), {}, 0.0, None
    if lora:
        adapters, scale = weight_writing.lora_factors(architecture, dict(trained)), lora["alpha"] / lora["rank"]
        print(f"merging {len(adapters)} adapters of {checkpoint}", flush=True)
    else:
        print(f"reading {checkpoint}", flush=True)
    common = (architecture, weights, weights.shape, about["dtype"])
    merged = weight_writing.write_weights(folder, *common, adapters, scale, trained=None if lora else trained)
    weight_writing.require_change(merged, about["dtype"])
    write_model_files(folder, model, about, settings["evaluation"])
    if lora:
        named = base_name(about["origin"])
        if not named:
            (folder / "base").mkdir()
            weight_writing.write_weights(folder / "base", *common, {}, 0.0)
            write_model_files(folder / "base", model, about, settings["evaluation"])
            named = base_folder.as_posix()
        weight_writing.write_adapter(folder / "adapter", adapters, lora, named, about["origin"].get("commit"))
    final = next(kept for kept in training["checkpoints"] if kept["name"] == "final")
    return {
        "recipe": run,
        "checkpoint": {key: final[key] for key in ("name", "step", "sha256")},
        "training": training["fingerprint"],
        "base": {"name": about["name"], "origin": about["origin"], "sha256": about["sha256"]},
        "adapter_base": named,
        "dtype": about["dtype"],
        "lora": lora,
        "adapted_weights": merged.weights,
        "changed_weights": merged.changed,
        "update_error": merged.update_error,
        "agreement": measure_agreement(folder, results, run, settings),
    }


def exported_files(export: Path) -> list[str]:
    """Names of an export's files, export.json last.

    Raises:
      PipelineError: there is no finished export, or a file is not as the export wrote it.
    """
    manifest_file = export / "export.json"
    if not manifest_file.is_file():
        raise PipelineError(
            f"{manifest_file}: no such file; make the export first: snakemake --cores 1 {manifest_file}, with the "
            "--config of its run"
        )
    manifest = files.read_json(manifest_file)
    for name, sha256 in manifest["files"].items():
        path = export / name
        if not path.is_file() or files.sha256_file(path) != sha256:
            raise PipelineError(
                f"{path}: is missing or was changed after the export; make it again: snakemake --cores 1 "
                f"{manifest_file} --forcerun {manifest_file}, with the --config of its run"
            )
    return [*manifest["files"], manifest_file.name]


def replace_export(output: Path, write: Callable[[Path], dict]) -> dict:
    """Writes an export into a temporary folder; its files then replace those of an earlier export in `output`.

    `write` fills the folder that it gets and returns the manifest. The result is the manifest (export.json) with the
    SHA-256 of each file as `files`. Raises as `earlier_files`.
    """
    earlier = earlier_files(output)
    output.mkdir(parents=True, exist_ok=True)
    for left_over in output.glob(".making.*"):  # from a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".making.") as temporary:
        making = Path(temporary)
        manifest = write(making)
        manifest["files"] = {
            path.relative_to(making).as_posix(): files.sha256_file(path)
            for path in sorted(making.rglob("*"))
            if path.is_file()
        }
        replace_files(output, earlier, making, manifest["files"])
    files.write_json(output / "export.json", manifest)
    (output / REPLACING).unlink()
    size_bytes = sum((output / name).stat().st_size for name in manifest["files"])
    print(f"{output}: {len(manifest['files'])} files, {size_text(size_bytes)}", flush=True)
    return manifest


def earlier_files(output: Path) -> set[str]:
    """Names of the files that an earlier export has left in its folder, even if that export was killed.

    Raises:
      PipelineError: the folder has files, but no export made them.
    """
    for name in (REPLACING, "export.json"):
        if (output / name).is_file():
            return set(files.read_json_object(output / name).get("files", ()))
    others = [path.name for path in output.glob("*") if not path.name.startswith(".making.")]
    if others:
        raise PipelineError(
            f"--output: {output} has other files ({min(others)}) and is not the folder of an export; name a new or an "
            "empty one"
        )
    return set()


def replace_files(output: Path, earlier: set[str], making: Path, new: Iterable[str]) -> None:
    """Moves new files to the place of an earlier export's. Other files in the folder stay (a .git, your notes).

    Only renames are left to do. export.json vouches for the other files, so it is removed first and written last.
    """
    files.write_json(output / REPLACING, {"files": sorted(earlier.union(new))})
    (output / "export.json").unlink(missing_ok=True)
    for name in earlier:
        (output / name).unlink(missing_ok=True)
    folders = {folder for name in earlier for folder in Path(name).parents} - {Path()}
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        with contextlib.suppress(OSError):  # not empty
            (output / folder).rmdir()
    for name in new:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (making / name).replace(output / name)
