"""How much disk a run takes below results/, from its settings, and whether so much is free.

The rules import this module, so it does not import JAX. The figures are estimates for people who choose a machine: a
published model and its tokenizer, compiled programs and tables are a few per cent beside them, or are left out.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gsm8k_grpo.common import layout
from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.data.hub_errors import CACHE_VARIABLES
from gsm8k_grpo.grpo.kept_checkpoints import kept_steps
from gsm8k_grpo.models import families, precision

LEAST_FREE_BYTES = 2**20  # for what Snakemake itself notes in a run
FEW = 2  # checkpoints that a training can do with: the newest and the one before, should the newest be damaged


def needed_bytes(settings: Mapping) -> dict[str, int]:
    """What a run takes at most, in bytes.

    Args:
      settings: the blocks model and training.

    Returns:
      `download`: the published model in its hub's cache, as a hub has it (two bytes a parameter; 0 for a miniature or
      a local folder); `weights`: the base model as it is kept; `checkpoint`: one of them, with its optimizer's state;
      `checkpoints`: those that are kept, and the one that is being written.
    """
    model, training = settings["model"], settings["training"]
    parameters = families.approximate_parameters(model["architecture"])
    width = precision.widest_bytes(model["dtype"])
    trained, trained_width = parameters, width
    if training["lora"]:
        trained = lora_parameters(model["architecture"], training["lora"])
        trained_width = precision.WIDTH_BYTES["float32"]
    checkpoint = 3 * trained * trained_width  # the values and AdamW's two moments
    return {
        "download": 2 * parameters if model["source"] in CACHE_VARIABLES else 0,
        "weights": parameters * width,
        "checkpoint": checkpoint,
        "checkpoints": (len(kept_steps(training)) + 1) * checkpoint,
    }


def lora_parameters(architecture: Mapping | str, lora: Mapping) -> int:
    """The scalars of all adapters: of each module rank × (features in + features out)."""
    sizes = families.architecture_sizes(architecture)
    width, hidden = sizes["embed_dim"], sizes["hidden_dim"]
    queries, keys = (sizes[heads] * sizes["head_dim"] for heads in ("num_heads", "num_kv_heads"))
    features = {
        **dict.fromkeys(("q_einsum", "attn_vec_einsum", "q_proj", "o_proj"), width + queries),
        "kv_einsum": width + 2 * keys,
        **dict.fromkeys(("k_proj", "v_proj"), width + keys),
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), width + hidden),
    }
    return sizes["num_layers"] * lora["rank"] * sum(features[module] for module in lora["target_modules"])


def shortage(results: Path, runs: Mapping[str, Mapping]) -> str | None:
    """A sentence where the runs need more disk than is free; None where it is enough.

    Args:
      results: the folder of all artifacts, which need not be there yet.
      runs: the settings of each run, by name.
    """
    disk = _nearest(results)
    free = shutil.disk_usage(disk).free
    parts, fewer = {"base models": 0, "downloads": 0, "checkpoints": 0}, 0
    for model in {chosen["model"]["name"]: chosen for chosen in runs.values()}.values():
        folder, needed = layout.model_folder(results, model["model"]["name"]), needed_bytes(model)
        if not (folder / "weights").is_dir():  # an archive of `make carry` has model.json alone
            parts["base models"] += needed["weights"]
            if needed["download"] and _same_disk(_cache(model["model"]["source"]), disk):
                parts["downloads"] += needed["download"]
    for name, chosen in runs.items():
        folder, needed = layout.training_folder(results, name), needed_bytes(chosen)
        if (folder / "summary.json").is_file():
            continue
        there = folder_bytes(folder / "runs")
        parts["checkpoints"] += max(0, needed["checkpoints"] - there)
        few = min(needed["checkpoints"], (FEW + 1) * needed["checkpoint"])
        fewer += max(0, few - there)
    wanted = sum(parts.values())
    if wanted <= free:
        return None
    named = ", ".join(f"{part} {size_text(size)}" for part, size in parts.items() if size)
    least = wanted - parts["checkpoints"] + fewer
    hint = f"; with training.keep_checkpoints {FEW} it is {size_text(least)}" if least < wanted else ""
    return (
        f"disk: what is left to do takes some {size_text(wanted)} ({named}), and {size_text(free)} are free in "
        f"{disk}{hint}"
    )


def unwritable(folders: Iterable[Path]) -> str | None:
    """A sentence on the first folder that cannot be written to, or None. Folders that are not there may be made."""
    for folder in filter(Path.is_dir, folders):
        disk = os.statvfs(folder)
        free = disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)
        if disk.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder}: this folder cannot be written to; make it writable"
        if disk.f_blocks and free < LEAST_FREE_BYTES:
            return f"{folder}: its disk is full ({size_text(free)} free); free some space, then the same command again"
    return None


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder; 0 where there is none."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a training may be at work, and remove what it replaces
                total += os.stat(os.path.join(above, name)).st_size
    return total


def _cache(hub: str) -> Path:
    return Path(os.environ.get(CACHE_VARIABLES[hub]) or Path.home() / ".cache")


def _same_disk(first: Path, second: Path) -> bool:
    return _nearest(first).stat().st_dev == _nearest(second).stat().st_dev


def _nearest(path: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())
