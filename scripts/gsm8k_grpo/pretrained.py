"""Published weights read from a folder into Tunix's arrays, on the host: no device ever sees a whole model."""

import fnmatch
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16)
import numpy as np
from flax import nnx, traverse_util

from gsm8k_grpo import families, files, hf_format, hubs, models
from gsm8k_grpo.errors import PipelineError

INDEX = "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")  # of safetensors
# Which file holds the tokenizer, by the template's name, the first that is there. (Gemma's tokenizer.json is the same
# tokenizer again; what `transformers` saves has no other.)
TOKENIZERS = {"gemma": ("tokenizer.model", "tokenizer.json"), "qwen": ("tokenizer.json",)}


def read(folder: Path, architecture: Mapping | str) -> tuple[dict, Path]:
    """A published model as it was fetched: a Hugging Face folder, or Kaggle's with a Flax checkpoint of Gemma 2.

    Returns:
      (weights as nested dicts of NumPy arrays by Tunix's names, the file of its tokenizer).

    Raises:
      PipelineError: neither of them, or as `read_huggingface`.
    """
    checkpoints = sorted(folder.glob("*/_METADATA"))
    if not checkpoints or (folder / "config.json").is_file():
        return read_huggingface(folder, architecture), tokenizer_file(folder, architecture)
    family = families.of(architecture)
    if family.name != "gemma2":
        raise PipelineError(
            f"{folder}: Flax checkpoints are read of Gemma 2, not of {family.title}; use Hugging Face's"
        )
    vocabularies = sorted(folder.glob("tokenizer*.model"))
    if not vocabularies or len(checkpoints) > 1:
        raise PipelineError(f"{folder}: expected a tokenizer*.model and one folder with a Flax checkpoint")
    return read_flax(checkpoints[0].parent, architecture), vocabularies[0]


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

    hf_format.check_config(folder, architecture)
    entries, expected = hf_format.table(architecture), shapes(architecture)
    by_name = _files_of_tensors(folder)
    known = {name for entry in entries for name in entry.names}
    _require_all(folder, known, by_name)
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
            found[entry.path] = _checked(folder, entry.names[0], entry.to_tunix, tensors, expected[entry.path])
    except (safetensors.SafetensorError, OSError) as error:
        raise PipelineError(f"{path}: not a readable safetensors file ({error}); fetch it again") from None
    return traverse_util.unflatten_dict(found)


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """Which safetensors file each tensor is in.

    Raises:
      PipelineError: no safetensors, or files that the index names but that are not there.
    """
    import safetensors

    if (folder / INDEX).is_file():
        by_name = {name: folder / file for name, file in hubs.weight_map(folder / INDEX).items()}
        missing = sorted({path.name for path in by_name.values() if not path.is_file()})
        if missing:
            raise PipelineError(f"{folder / missing[0]}: no such file, but {INDEX} names it; fetch the model again")
        return by_name
    single = folder / "model.safetensors"
    if not single.is_file():
        raise PipelineError(
            f"{folder}: expected model.safetensors, or {INDEX} with the files that it names; other formats are not read"
        )
    try:
        with safetensors.safe_open(single, framework="numpy") as opened:
            return dict.fromkeys(opened.keys(), single)
    except (safetensors.SafetensorError, OSError) as error:
        raise PipelineError(f"{single}: not a readable safetensors file ({error}); fetch it again") from None


def _require_all(folder: Path, known: set[str], found: Mapping[str, object]) -> None:
    missing = sorted(known - found.keys())
    if missing:
        raise PipelineError(f"{folder}: {missing[0]} and {len(missing) - 1} other tensors are missing")
    # A copy of the embedding: the output is tied to it. Old files also hold rotary frequencies, which are computed.
    unknown = sorted(name for name in found.keys() - known if name != "lm_head.weight" and "rotary_emb" not in name)
    if unknown:
        raise PipelineError(f"{folder}: {unknown[0]} is no tensor of this architecture ({len(unknown)} such)")


def read_flax(folder: Path, architecture: Mapping | str) -> dict:
    """The weights of a Gemma 2 checkpoint as Kaggle has it for Flax (Orbax).

    Returns and raises as `read_huggingface`.
    """
    import orbax.checkpoint as ocp

    expected = shapes(architecture)
    with ocp.PyTreeCheckpointer() as checkpointer:
        try:
            metadata = checkpointer.metadata(folder.absolute()).item_metadata.tree
            numpy = ocp.RestoreArgs(restore_type=np.ndarray)  # not onto a device
            arguments = _mapped(metadata, numpy)
            stored = checkpointer.restore(folder.absolute(), restore_args=arguments)
        except (ValueError, KeyError, OSError, AttributeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise PipelineError(f"{folder}: not a readable Flax checkpoint ({reason}); fetch it again") from None
    flat = {"/".join(path): array for path, array in traverse_util.flatten_dict(stored).items()}
    table = dict(_flax_table(families.sizes(architecture)))
    _require_all(folder, {name for name, _ in table.values()}, flat)
    found = {}
    for path, (name, part) in table.items():
        found[path] = _checked(folder, name, part, flat[name], expected[path])
    return traverse_util.unflatten_dict(found)


def _mapped(tree: object, value: object) -> object:
    return {key: _mapped(item, value) for key, item in tree.items()} if isinstance(tree, Mapping) else value


def _flax_table(sizes: Mapping) -> Iterator[tuple]:
    """(our path, (Kaggle's name, what of that array)), for all weights of Gemma 2."""

    def whole(array: np.ndarray) -> np.ndarray:
        return array

    pieces = sizes["vocabulary_size"]  # there are rows beyond the tokenizer's pieces
    yield ("embedder", "input_embedding"), ("transformer/embedder/input_embedding", lambda array: array[:pieces])
    for index in range(sizes["num_layers"]):
        layer, flax = ("layers", index), f"transformer/layer_{index}"
        for name in ("q_einsum", "kv_einsum", "attn_vec_einsum"):
            yield (*layer, "attn", name, "w"), (f"{flax}/attn/{name}/w", whole)
        yield (*layer, "mlp", "gate_proj", "kernel"), (f"{flax}/mlp/gating_einsum/w", lambda array: array[0])
        yield (*layer, "mlp", "up_proj", "kernel"), (f"{flax}/mlp/gating_einsum/w", lambda array: array[1])
        yield (*layer, "mlp", "down_proj", "kernel"), (f"{flax}/mlp/linear/w", whole)
        for name in ("pre_attention_norm", "pre_ffw_norm", "post_ffw_norm"):
            yield (*layer, name, "scale"), (f"{flax}/{name}/scale", whole)
        yield (*layer, "post_attn_norm", "scale"), (f"{flax}/post_attention_norm/scale", whole)
    yield ("final_norm", "scale"), ("transformer/final_norm/scale", whole)


def shapes(architecture: Mapping | str) -> dict[tuple, tuple]:
    """The shape of each of our arrays, by its path."""
    state = nnx.to_pure_dict(nnx.state(models.structure(models.config(architecture))))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(state).items()}


def _checked(folder: Path, name: str, convert: object, stored: object, shape: tuple) -> np.ndarray:
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
    names = TOKENIZERS[families.of(architecture).template.name]
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
        wanted = any(fnmatch.fnmatch(path.name, pattern) for pattern in hubs.MODEL_FILES)
        if wanted and path.suffix != ".safetensors" and path.name != INDEX and path.is_file():
            if path.suffix == ".json":
                files.read_json_object(path)
            shutil.copyfile(path, target / path.name)
