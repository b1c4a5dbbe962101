"""Reading published weights from a folder into Tunix's arrays, on the host, so that no device holds a whole model."""

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
from gsm8k_grpo.data.model_files import INDEX_FILE
from gsm8k_grpo.huggingface import config_json, flax_reading, tensor_names
from gsm8k_grpo.models import building, tokenizers
from gsm8k_grpo.models.families import family_of

DTYPES = ("F64", "F32", "F16", "BF16")  # in safetensors' names


def read_model(folder: Path, architecture: Mapping | str) -> tuple[dict, Path]:
    """A published model as fetched: a Hugging Face folder, or Kaggle's folder with a Flax checkpoint of Gemma 2.

    Returns:
      (weights as nested dicts of NumPy arrays by Tunix's names, the tokenizer's file).

    Raises:
      PipelineError: the folder is neither, or as `read_huggingface`.
    """
    checkpoints = sorted(folder.glob("*/_METADATA"))
    if not checkpoints or (folder / "config.json").is_file():
        return read_huggingface(folder, architecture), tokenizer_file(folder, architecture)
    family = family_of(architecture)
    if family.flax_tensors is None:
        raise PipelineError(
            f"{folder}: a Flax checkpoint of {family.title} cannot be read, only of Gemma 2; take Hugging Face's"
        )
    vocabularies = sorted(folder.glob("tokenizer*.model"))
    if not vocabularies or len(checkpoints) > 1:
        raise PipelineError(f"{folder}: expected a tokenizer*.model and one folder with a Flax checkpoint")
    return flax_reading.read_flax(checkpoints[0].parent, architecture), vocabularies[0]


def read_huggingface(folder: Path, architecture: Mapping | str) -> dict:
    """The weights of a Hugging Face folder (config.json, and safetensors in one file or in several with an index).

    Args:
      folder: as `transformers` saves it or the hub serves it.
      architecture: `model.architecture`; config.json must agree with it.

    Returns:
      nested dicts of NumPy arrays by Tunix's names, in the precision of the files.

    Raises:
      PipelineError: a file is missing or damaged, the configuration is another model's (names the key), or tensors are
        missing, unknown or of another shape.
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
                        f"{path}: {name} is {kind}, expected one of {', '.join(DTYPES)}: quantised weights are not "
                        "supported; take the model in one of these"
                    )
                tensors.append(handles[path].get_tensor(name))
            # A contiguous copy frees what was read before the next tensor is read.
            found[entry.path] = checked_array(folder, entry.names[0], entry.to_tunix, tensors, expected[entry.path])
    except (safetensors.SafetensorError, OSError) as error:
        raise PipelineError(f"{path}: not a readable safetensors file ({error}); fetch it again") from None
    return traverse_util.unflatten_dict(found)


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """The safetensors file of each tensor.

    Raises:
      PipelineError: there are no safetensors, or a file that the index names is missing.
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
            f"{folder}: expected model.safetensors, or {INDEX_FILE} with the files that it names; no other "
            "format is supported"
        )
    try:
        with safetensors.safe_open(single, framework="numpy") as opened:
            return dict.fromkeys(opened.keys(), single)
    except (safetensors.SafetensorError, OSError) as error:
        raise PipelineError(f"{single}: not a readable safetensors file ({error}); fetch it again") from None


def require_all(folder: Path, known: set[str], found: Mapping[str, object]) -> None:
    """Refuses a folder that lacks tensors of the architecture or has unknown ones."""
    missing = sorted(known - found.keys())
    if missing:
        raise PipelineError(
            f"{folder}: {missing[0]} and {len(missing) - 1} other tensors are missing; fetch the model again"
        )
    # lm_head copies the embedding; the output is tied to it. Old files also hold rotary frequencies, which we compute.
    unknown = sorted(name for name in found.keys() - known if name != "lm_head.weight" and "rotary_emb" not in name)
    if unknown:
        raise PipelineError(
            f"{folder}: {unknown[0]} is not a tensor of model.architecture ({len(unknown)} such tensors); choose the "
            "architecture that the model has"
        )


def expected_shapes(architecture: Mapping | str) -> dict[tuple, tuple]:
    """The shape of each of our arrays, by its path."""
    state = nnx.to_pure_dict(nnx.state(building.structure(building.tunix_config(architecture))))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(state).items()}


def checked_array(folder: Path, name: str, convert: object, stored: object, shape: tuple) -> np.ndarray:
    """A stored array, converted to ours.

    Raises:
      PipelineError: it has another shape than the architecture says.
    """
    try:
        array = np.ascontiguousarray(convert(stored))
    except (ValueError, IndexError) as error:
        raise PipelineError(f"{folder}: {name} has another shape than model.architecture says ({error})") from None
    if array.shape != shape:
        raise PipelineError(f"{folder}: {name} has shape {array.shape} here, model.architecture says {shape}")
    return array


def tokenizer_file(folder: Path, architecture: Mapping | str) -> Path:
    """The file of a published model's tokenizer.

    Raises:
      PipelineError: there is none.
    """
    names = family_of(architecture).tokenizer.files
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise PipelineError(f"{folder}: expected {' or '.join(names)}, the model's tokenizer; fetch the model again")


def copy_published(folder: Path, target: Path) -> None:
    """Copies the files beside a model's weights (config, tokenizer, template, licence), for the export.

    Other files of a local folder (another adapter, notes, credentials) are not copied.

    Raises:
      PipelineError: a JSON file is not JSON (a pointer of Git LFS, an error page): the export could not be loaded.
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
