"""The files of a published model in a folder: which ones a model needs, their hashes, and whether all are there.

A link that leads out of the folder is not followed: what it leads to may be anybody's, such as credentials.
"""

import fnmatch
import time
from collections.abc import Iterator, Mapping
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
      since: that time, in seconds since the epoch. Files that have not changed since are not read again. A time in the
        future says nothing, so then all are read.
    """
    since = since if since <= time.time() else 0
    if (folder / "config.json").is_file():
        return hashes(folder, MODEL_FILES, known, since)
    return hashes(folder, ("*",), known, since) if is_flax_folder(folder) else {}


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path in a model's folder leads out of it, by a link or by `..`.

    In Hugging Face's cache, a snapshot's files are links to blobs of the same model, and those may be links to blobs
    that models share. These are the cache's own.
    """
    inside = [folder.resolve()]
    if inside[0].parent.name == "snapshots":  # CACHE/models--OWNER--NAME/snapshots/COMMIT
        of_model = inside[0].parent.parent
        inside += [(of_model / "blobs").resolve(), (of_model.parent / "blobs").resolve()]
    return not any(path.resolve().is_relative_to(own) for own in inside)


def _wanted_paths(folder: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """The paths below a folder that are not hidden and match a pattern, with their relative names, in order.

    Links to folders are among them, but not what is behind them.
    """
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and any(fnmatch.fnmatch(name, pattern) for pattern in wanted):
            yield name, path


def hashes(
    folder: Path, wanted: tuple[str, ...] = ("*",), known: Mapping = MappingProxyType({}), since: float = 0
) -> dict[str, dict]:
    """`sha256` and `bytes` of the files below a folder, by relative name, except hidden ones and those elsewhere.

    Args:
      folder: the folder to search.
      wanted: patterns of names.
      known, since: see `local_hashes`.
    """
    found = {}
    for name, path in _wanted_paths(folder, wanted):
        if leads_out(path, folder) or not path.is_file():
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
    """Refuses a folder without a loadable model, or with links that lead out of it, before any large file is read."""
    flax = not (folder / "config.json").is_file()
    if flax and not is_flax_folder(folder):
        raise PipelineError(
            f"{folder}: expected config.json, a tokenizer and safetensors (as on Hugging Face), or a tokenizer*.model "
            "and one folder with a Flax checkpoint (as on Kaggle)"
        )
    for _, path in _wanted_paths(folder, ("*",) if flax else MODEL_FILES):
        _refuse_what_leads_out(path, folder)
    if flax:
        return
    if str(files.read_json_object(folder / "config.json").get("model_type", "")).startswith("lfm2"):
        raise PipelineError(f"{folder / 'config.json'}: {families.LFM2_UNSUPPORTED}")
    index = folder / INDEX_FILE
    shards = set(weight_map(index).values()) if index.is_file() else {"model.safetensors"}
    for name in sorted(shards):
        _refuse_what_leads_out(folder / name, folder)
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise PipelineError(
            f"{folder}: {missing[0]} is missing ({len(missing)} of {len(shards)} safetensors files are); fetch the "
            "model again, in this format"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise PipelineError(f"{folder}: no tokenizer.json or tokenizer.model; copy the model's own there")


def _refuse_what_leads_out(path: Path, folder: Path) -> None:
    if leads_out(path, folder):
        raise PipelineError(
            f"{path}: leads out of the model's folder, to {path.resolve()}, and is not followed; put the file itself "
            "there, or remove the link"
        )


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
