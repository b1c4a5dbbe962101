"""Reading published weights from a folder into Tunix's arrays, on the host, so that no device holds a whole model."""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16)
import numpy as np
from flax import nnx, traverse_util

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import model_files
from gsm8k_grpo.data.model_files import INDEX_FILE
from gsm8k_grpo.huggingface import config_json, tensor_names
from gsm8k_grpo.models import building

DTYPES = ("F64", "F32", "F16", "BF16")  # in safetensors' names


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
