"""Published models as they were fetched, turned into the base model's weights and tokenizer."""

import fnmatch
import shutil
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import model_files
from gsm8k_grpo.data.model_files import INDEX_FILE
from gsm8k_grpo.huggingface.flax_reading import read_flax
from gsm8k_grpo.huggingface.weight_reading import read_huggingface
from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.families import family_of


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
    return read_flax(checkpoints[0].parent, architecture), vocabularies[0]


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
