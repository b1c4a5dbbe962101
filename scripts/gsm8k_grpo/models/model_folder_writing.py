"""Writes a base model's folder, results/models/NAME."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from flax import traverse_util

from gsm8k_grpo.common import files
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.models import recorded_hashes, storage
from gsm8k_grpo.models.fastest_dtype import fastest_dtype
from gsm8k_grpo.models.precision import FASTEST

MakeModel = Callable[[Path], tuple[dict, dict]]


def write_model_folder(output: Path, model_settings: Mapping, make: MakeModel) -> None:
    """Writes a model's folder; the previous content stays until the new one is complete.

    model.json goes last and says that the rest is complete. It has no times: equal weights have equal files.

    Args:
      output: results/models/NAME.
      model_settings: the block `model`, as plain dicts and lists.
      make: writes tokenizer.model (and published/) into the folder that it gets; returns (weights, origin).
    """
    dtype = fastest_dtype() if model_settings["dtype"] == FASTEST else model_settings["dtype"]
    output.mkdir(parents=True, exist_ok=True)
    for left_over in output.glob(".making.*"):  # of a killed run
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".making.") as temporary:
        making = Path(temporary)
        weights, origin = make(making)
        storage.save(weights, making / "weights")
        manifest = {
            "name": model_settings["name"],
            "origin": origin,
            "architecture": model_settings["architecture"],
            "dtype": dtype,
            "parameters": sum(array.size for array in storage.leaves(weights).values()),
            "sha256": {
                "weights": storage.weights_hash(weights),
                "tokenizer": files.sha256_file(making / "tokenizer.model"),
            },
        }
        (output / "model.json").unlink(missing_ok=True)
        for name in ("weights", "published"):
            shutil.rmtree(output / name, ignore_errors=True)
        for path in making.iterdir():
            path.replace(output / path.name)
    files.write_json(output / "provenance.json", collect_provenance())
    files.write_json(output / "model.json", manifest)


def take_over_model(same: Path, making: Path) -> tuple[dict, dict]:
    """Reads the weights and the origin of a miniature with the same pretraining, and copies its tokenizer.

    Raises:
      PipelineError: the weights or the tokenizer are not those that its model.json names.
    """
    print(f"taking over the weights of {same}, which has the same pretraining", flush=True)
    manifest, arrays = files.read_json(same / "model.json"), storage.Stored(same / "weights").read_all()
    recorded_hashes.require_recorded(same / "weights", storage.arrays_hash(arrays), manifest["sha256"]["weights"])
    recorded_hashes.require_recorded_tokenizer(same, manifest)
    shutil.copyfile(same / "tokenizer.model", making / "tokenizer.model")
    return traverse_util.unflatten_dict(arrays), manifest["origin"]
