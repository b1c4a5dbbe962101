"""The files of a published model in a folder: which ones a model needs, their hashes, and whether all are there."""

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models import families

INDEX_FILE = "model.safetensors.index.json"
# What a model needs from a repository. Other formats of the same weights (.bin, .gguf, .pth) are not fetched.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    INDEX_FILE,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "LICENSE*",
)


def local_hashes(folder: Path, known: Mapping = MappingProxyType({}), since: float = 0) -> dict[str, dict]:
    """`hashes` of a model's files in a local folder. A folder without a model has none: it could be a whole disk.

    Args:
      folder: the model's.
      known: the hashes at an earlier time.
      since: that time, in seconds since the epoch. Files that have not changed since are not read again.
    """
    if (folder / "config.json").is_file():
        return hashes(folder, MODEL_FILES, known, since)
    return hashes(folder, ("*",), known, since) if is_flax_folder(folder) else {}


def hashes(
    folder: Path, wanted: tuple[str, ...] = ("*",), known: Mapping = MappingProxyType({}), since: float = 0
) -> dict[str, dict]:
    """`sha256` and `bytes` of the files below a folder, except hidden ones, by relative name.

    Args:
      folder: the folder to search.
      wanted: patterns of names.
      known, since: see `local_hashes`.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or not path.is_file() or not any(fnmatch.fnmatch(name, pattern) for pattern in wanted):
            continue
        facts = path.stat()
        # The time of the last change of any kind. Copying keeps the contents' time, but not this one.
        same = name in known and known[name]["bytes"] == facts.st_size and facts.st_ctime < since
        sha256 = known[name]["sha256"] if same else files.sha256_file(path)
        found[name] = {"sha256": sha256, "bytes": facts.st_size}
    return found


def is_flax_folder(folder: Path) -> bool:
    """Whether a folder has the layout of Kaggle's Flax models."""
    return any(folder.glob("*/_METADATA")) and any(folder.glob("tokenizer*.model"))


def check_model_folder(folder: Path) -> None:
    """Refuses a folder without a loadable model, before any large file is read."""
    if not (folder / "config.json").is_file():
        if is_flax_folder(folder):
            return
        raise PipelineError(
            f"{folder}: expected config.json, a tokenizer and safetensors (as on Hugging Face), or a tokenizer*.model "
            "and one folder with a Flax checkpoint (as on Kaggle)"
        )
    if str(files.read_json_object(folder / "config.json").get("model_type", "")).startswith("lfm2"):
        raise PipelineError(f"{folder / 'config.json'}: {families.LFM2_UNSUPPORTED}")
    index = folder / INDEX_FILE
    shards = set(weight_map(index).values()) if index.is_file() else {"model.safetensors"}
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise PipelineError(
            f"{folder}: {missing[0]} is missing ({len(missing)} of {len(shards)} safetensors files are); fetch the "
            "model again, in this format"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise PipelineError(f"{folder}: no tokenizer.json or tokenizer.model; copy the model's own there")


def weight_map(index: Path) -> dict[str, str]:
    """The safetensors file of each tensor, from model.safetensors.index.json.

    Raises:
      PipelineError: the file has no such table.
    """
    found = files.read_json_object(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise PipelineError(
            f"{index}: its weight_map, which names the safetensors file of each tensor, is missing, empty or not a "
            "table; fetch the model again"
        )
    return found
