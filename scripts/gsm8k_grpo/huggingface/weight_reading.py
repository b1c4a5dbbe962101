"""Published weights read from a folder into Tunix's arrays, on the host: no device ever sees a whole model."""

import fnmatch
import shutil
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16)
import numpy as np
from flax import nnx, traverse_util

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import model_files
from gsm8k_grpo.huggingface import config_json, flax_reading, tensor_names
from gsm8k_grpo.models import building, tokenizers
from gsm8k_grpo.models.families import family_of

INDEX_FILE = "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")  # of safetensors


def read_model(folder: Path, architecture: Mapping | str) -> tuple[dict, Path]:
    """A published model as it was fetched: a Hugging Face folder, or Kaggle's with a Flax checkpoint of Gemma 2.

    Returns:
      (weights as nested dicts of NumPy arrays by Tunix's names, the file of its tokenizer).

    Raises:
      PipelineError: neither of them, or as `read_huggingface`.
    """
    checkpoints = sorted(folder.glob("*/_METADATA"))
    if not checkpoints or (folder / "config.json").is_file():
        return read_huggingface(folder, architecture), tokenizer_file(folder, architecture)
    family = family_of(architecture)
    if family.flax_tensors is None:
        raise PipelineError(
            f"{folder}: Flax checkpoints are read of Gemma 2, not of {family.title}; use Hugging Face's"
        )
    vocabularies = sorted(folder.glob("tokenizer*.model"))
    if not vocabularies or len(checkpoints) > 1:
        raise PipelineError(f"{folder}: expected a tokenizer*.model and one folder with a Flax checkpoint")
    return flax_reading.read_flax(checkpoints[0].parent, architecture), vocabularies[0]


def read_huggingface(folder: Path, architecture: Mapping | str) -> dict:
    """The weights of a Hugging Face folder (config.json, and safetensors in one file or several with their index).

    Args:
      folder: as `transformers` saves it or the hub serves it.
      architecture: `model.architecture`, which config.json must agree with.

    Returns:
      nested dicts of NumPy arrays by Tunix's names, in the precision of the files.

    Raises:
      PipelineError: a file that is missing or torn, a configuration of another model (naming the key), tensors that are
        missing, unknown or of other shapes.
    """
    import safetensors

    config_json.check_config(folder, architecture)
    entries, expected = tensor_names.tensor_table(architecture), expected_shapes(architecture)
    by_name = _files_of_tensors(folder)
    known = {name for entry in entries for name in entry.names}
    require_all(folder, known, by_name)
    found, handles = {}, {}
    try:
        for entry in entries:
            tensors = []
            for name in entry.names:
                path = by_name[name]
                if path not in handles:
                    handles[path] = safetensors.safe_open(path, framework="numpy")
                kind = handles[path].get_slice(name).get_dtype()
                if kind not in DTYPES:
                    raise PipelineError(
                        f"{path}: {name} is {kind}, expected one of {', '.join(DTYPES)}; quantised "
                        "weights are not read: take the model in one of these"
                    )
                tensors.append(handles[path].get_tensor(name))
            # Contiguous, and so a copy: what was read is freed before the next tensor is.
            found[entry.path] = checked_array(folder, entry.names[0], entry.to_tunix, tensors, expected[entry.path])
    except (safetensors.SafetensorError, OSError) as error:
        raise PipelineError(f"{path}: not a readable safetensors file ({error}); fetch it again") from None
    return traverse_util.unflatten_dict(found)


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """Which safetensors file each tensor is in.

    Raises:
      PipelineError: no safetensors, or files that the index names but that are not there.
    """
    import safetensors

    if (folder / INDEX_FILE).is_file():
        by_name = {name: folder / file for name, file in model_files.weight_map(folder / INDEX_FILE).items()}
        missing = sorted({path.name for path in by_name.values() if not path.is_file()})
        if missing:
            raise PipelineError(
                f"{folder / missing[0]}: no such file, but {INDEX_FILE} names it; fetch the model again"
            )
        return by_name
    single = folder / "model.safetensors"
    if not single.is_file():
        raise PipelineError(
            f"{folder}: expected model.safetensors, or {INDEX_FILE} with the files that it names; other formats are not read"
        )
    try:
        with safetensors.safe_open(single, framework="numpy") as opened:
            return dict.fromkeys(opened.keys(), single)
    except (safetensors.SafetensorError, OSError) as error:
        raise PipelineError(f"{single}: not a readable safetensors file ({error}); fetch it again") from None


def require_all(folder: Path, known: set[str], found: Mapping[str, object]) -> None:
    missing = sorted(known - found.keys())
    if missing:
        raise PipelineError(f"{folder}: {missing[0]} and {len(missing) - 1} other tensors are missing")
    # A copy of the embedding: the output is tied to it. Old files also hold rotary frequencies, which are computed.
    unknown = sorted(name for name in found.keys() - known if name != "lm_head.weight" and "rotary_emb" not in name)
    if unknown:
        raise PipelineError(f"{folder}: {unknown[0]} is no tensor of this architecture ({len(unknown)} such)")


def expected_shapes(architecture: Mapping | str) -> dict[tuple, tuple]:
    """The shape of each of our arrays, by its path."""
    state = nnx.to_pure_dict(nnx.state(building.structure(building.tunix_config(architecture))))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(state).items()}


def checked_array(folder: Path, name: str, convert: object, stored: object, shape: tuple) -> np.ndarray:
    """What was stored, rearranged.

    Raises:
      PipelineError: it is not of the architecture's shape.
    """
    try:
        array = np.ascontiguousarray(convert(stored))
    except (ValueError, IndexError) as error:
        raise PipelineError(f"{folder}: {name} has another shape than model.architecture says ({error})") from None
    if array.shape != shape:
        raise PipelineError(f"{folder}: {name} has shape {array.shape} here, model.architecture says {shape}")
    return array


def tokenizer_file(folder: Path, architecture: Mapping | str) -> Path:
    """The file of a published model that holds its tokenizer.

    Raises:
      PipelineError: there is neither.
    """
    names = family_of(architecture).tokenizer.files
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise PipelineError(f"{folder}: expected {' or '.join(names)}, the model's tokenizer; fetch the model again")


def copy_published(folder: Path, target: Path) -> None:
    """Keeps what a model's folder has beside its weights (config, tokenizer, template, licence), for the export.

    A local folder may hold more (another adapter, notes, credentials): that stays where it is.

    Raises:
      PipelineError: JSON that is none (a pointer of Git LFS, a page of an error): the export could not be loaded.
    """
    target.mkdir()
    for path in sorted(folder.iterdir()):
        wanted = any(fnmatch.fnmatch(path.name, pattern) for pattern in model_files.MODEL_FILES)
        if wanted and path.suffix != ".safetensors" and path.name != INDEX_FILE and path.is_file():
            if path.suffix == ".json":
                files.read_json_object(path)
            shutil.copyfile(path, target / path.name)


def convert_model(folder: Path, architecture: Mapping | str, making: Path) -> dict:
    """Reads a published model's weights, and copies its tokenizer and the files beside its weights into `making`.

    Raises what `read_model` and `load_tokenizer` raise.
    """
    print(f"reading {folder}", flush=True)
    copy_published(folder, making / "published")
    weights, tokenizer = read_model(folder, architecture)
    tokenizers.load_tokenizer(tokenizer, family_of(architecture).template)
    shutil.copyfile(tokenizer, making / "tokenizer.model")
    return weights
