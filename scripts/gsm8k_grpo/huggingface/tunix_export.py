"""The finished export as a checkpoint that Tunix loads by itself: the same weights, in Tunix's own format (Orbax).

Tunix has no reader of one format for all its models. What it always reads are its own checkpoints.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tunix.sft import checkpoint_manager

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data.model_files import INDEX_FILE
from gsm8k_grpo.huggingface import weight_reading
from gsm8k_grpo.huggingface.export import exported_files
from gsm8k_grpo.models import building, storage
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.stock_tunix import stock_model

EMBEDDING = ("embedder", "input_embedding")


def write_checkpoint(folder: Path, export: Path, results: Path, settings: Mapping) -> dict:
    """Writes the weights of a finished export as a checkpoint of Tunix, and copies the files beside them.

    Args:
      folder: where to. The checkpoint lies in `folder/STEP/model_params`.
      export: the folder of the export.
      results: the folder of all artifacts.
      settings: the blocks mesh and model.

    Returns:
      the manifest, without the hashes of files: the export's, and `tunix`: what its own model needs to load it.

    Raises:
      PipelineError: the export is incomplete, was changed, or is of another base model; or what was written is not what
        was read.
    """
    names = exported_files(export)
    manifest = files.read_json(export / "export.json")
    about = files.read_json(layout.model_folder(results, settings["model"]["name"]) / "model.json")
    if manifest["base"]["sha256"] != about["sha256"]:
        raise PipelineError(
            f"{export / 'export.json'}: is of another base model than {about['name']} is now; make it again: "
            f"snakemake --cores 1 {export / 'export.json'}"
        )
    architecture, dtype, step = about["architecture"], about["dtype"], manifest["checkpoint"]["step"]
    print(f"reading {export}", flush=True)
    arrays = storage.leaves(weight_reading.read_huggingface(export, architecture))
    stock = stock_model(architecture, dtype)
    arrays[EMBEDDING] = with_rows(arrays[EMBEDDING], building.vocabulary_size(stock.config))
    arrays = {path: array.astype(jnp.dtype(dtype), copy=False) for path, array in arrays.items()}
    weights = storage.arrays_hash(arrays)
    mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
    model = storage.place(arrays, stock.config, mesh, jnp.dtype(dtype))
    written = folder / str(step) / "model_params"
    with storage.writing(f"{written}: the weights"):
        manager = checkpoint_manager.CheckpointManager(str(folder.absolute()))
        manager.save(step, model, force=True)
        manager.close()
    if storage.arrays_hash(storage.Stored(written).read_all()) != weights:
        raise PipelineError(f"{written}: what was written is not what was read; run the same command again")
    for name in names:
        if _is_beside_weights(name):
            shutil.copyfile(export / name, folder / name)
    kept = {key: value for key, value in manifest.items() if key not in ("files", "adapter_base")}
    return kept | {
        "tunix": {
            "module": stock.kind.__module__,
            "class": stock.kind.__name__,
            "config": stock.code,
            "embeddings": building.vocabulary_size(stock.config),
        }
    }


def with_rows(embedding: np.ndarray, rows: int) -> np.ndarray:
    """An embedding with rows of zeros at its end, which belong to no piece: Tunix's own sizes have them."""
    return np.pad(embedding, ((0, rows - len(embedding)), (0, 0)))


def _is_beside_weights(name: str) -> bool:
    """Whether a file of the export goes with its weights in any format: the tokenizer and what decoding needs."""
    weights = name.endswith(".safetensors") or name == INDEX_FILE
    return "/" not in name and not weights and name not in ("README.md", "export.json")
