"""Writing trained weights in others' formats: adapters merged into the base (safetensors), and alone in PEFT's format.

Arrays are read, merged and written one by one, so that memory holds at most two files' worth of weights.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import huggingface_hub
import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16)
import numpy as np
import safetensors
import safetensors.numpy

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data.model_files import INDEX_FILE
from gsm8k_grpo.huggingface import tensor_names

SHARD_BYTES = 2 * 10**9  # one safetensors file; memory holds it twice while it is written
Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]


def lora_factors(architecture: Mapping | str, adapters: Mapping[tuple, np.ndarray]) -> dict[str, tuple]:
    """LoRA's A [rank, inputs] and B [outputs, rank], by the name of Hugging Face's tensor.

    Args:
      architecture: `model.architecture`.
      adapters: Qwix's arrays, by paths such as ("layers", 0, "attn", "q_einsum", "w_lora_a").

    Raises:
      PipelineError: there are no adapters, or some belong to no weight of this architecture.
    """
    found, used = {}, set()
    for entry in tensor_names.tensor_table(architecture):
        pair = [(*entry.path[:-1], f"{entry.path[-1]}_lora_{which}") for which in "ab"]
        if pair[0] in adapters:
            used.update(pair)
            found.update(entry.lora(*(adapters[path] for path in pair)))
    unused = sorted("/".join(map(str, path)) for path in adapters.keys() - used)
    if unused or not found:
        raise PipelineError(
            f"the adapters {unused[0] if unused else '(none)'} belong to no weight of model.architecture; train again "
            "with --forcerun train"
        )
    return found


@dataclasses.dataclass
class MergeRecord:
    """How training changed the weights that have adapters, or all weights if all were trained, in the stored precision.

    Attributes:
      weights: their number.
      changed: how many of them differ from the base.
      update_error: the part of the update that rounding to the stored precision has lost: the norm of (what was added −
        the adapters' update) over the norm of the adapters' update.
    """

    weights: int = 0
    changed: int = 0
    update_error: float = 0.0
    _lost: float = 0.0
    _added: float = 0.0

    def replace(self, base: np.ndarray, trained: np.ndarray) -> np.ndarray:
        """Records a weight that was trained itself, and returns it."""
        self.weights += trained.size
        self.changed += int(np.count_nonzero(trained != base))
        return trained

    def add(self, base: np.ndarray, pair: tuple[np.ndarray, np.ndarray], scale: float) -> np.ndarray:
        """W + scale·B·A, added in float32 and rounded to W's precision; records the change."""
        a, b = pair
        wide, update = base.astype(np.float32), np.float32(scale) * (b @ a)
        merged = (wide + update).astype(base.dtype)
        self.weights += merged.size
        self.changed += int(np.count_nonzero(merged != base))
        self._lost += float(np.sum(np.square(merged.astype(np.float32) - wide - update, dtype=np.float64)))
        self._added += float(np.sum(np.square(update, dtype=np.float64)))
        self.update_error = math.sqrt(self._lost / self._added) if self._added else 0.0
        return merged


def write_weights(
    folder: Path,
    architecture: Mapping | str,
    base: Mapping[tuple, np.ndarray],
    shape_of: Callable[[tuple], tuple[int, ...]],
    dtype: str,
    adapted: Factors,
    scale: float,
    shard_bytes: int = SHARD_BYTES,
    trained: Mapping[tuple, np.ndarray] | None = None,
) -> MergeRecord:
    """Writes model.safetensors, or several files of at most `shard_bytes` and their index.

    Args:
      folder: where to.
      architecture: `model.architecture`.
      base: arrays by their paths in Tunix's state; each is read when its file is written.
      shape_of: gives an array's shape by its path.
      dtype: `model.dtype`, the stored precision.
      adapted: from `lora_factors`; empty for the base itself.
      scale: alpha / rank.
      shard_bytes: the largest size of a file.
      trained: the arrays that replace the base's, if all weights were trained.

    Raises:
      PipelineError: a file cannot be written.
    """
    table, merged = tensor_names.tensor_table(architecture), MergeRecord()
    kind = np.dtype(dtype)
    sizes = {
        name: math.prod(shape_of(entry.path)) * kind.itemsize // len(entry.names)
        for entry in table
        for name in entry.names
    }
    split = huggingface_hub.split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    for file, names in split.filename_to_tensors.items():
        tensors, wanted = {}, set(names)
        for entry in table:
            if wanted.isdisjoint(entry.names):
                continue
            before = entry.to_hf(base[entry.path].astype(kind))
            after = before if trained is None else entry.to_hf(trained[entry.path].astype(kind))
            for name, old, new in zip(entry.names, before, after, strict=True):
                if name not in wanted:
                    continue
                if name in adapted:
                    new = merged.add(old, adapted[name], scale)
                elif trained is not None:
                    new = merged.replace(old, new)
                tensors[name] = np.ascontiguousarray(new)
        _save(tensors, folder / file)
    if split.is_sharded:
        weight_map = dict(sorted(split.tensor_to_filename.items()))
        files.write_json(folder / INDEX_FILE, {"metadata": split.metadata, "weight_map": weight_map})
    return merged


def write_adapter(folder: Path, adapted: Factors, lora: Mapping, base_model: str, revision: str | None) -> None:
    """Writes the adapters alone, float32, in PEFT's format: adapter_model.safetensors and adapter_config.json.

    Args:
      folder: where to; it is created.
      adapted: from `lora_factors`.
      lora: `training.lora`.
      base_model: the base that PEFT loads: a name on the hub, or a folder.
      revision: the base's revision on the hub; None is the newest.
    """
    folder.mkdir()
    tensors = {
        f"base_model.model.{name.removesuffix('weight')}lora_{which}.weight": np.ascontiguousarray(part, np.float32)
        for name, pair in adapted.items()
        for which, part in zip("AB", pair, strict=True)
    }
    _save(tensors, folder / "adapter_model.safetensors")
    alpha = lora["alpha"]
    files.write_json(
        folder / "adapter_config.json",
        {
            "base_model_name_or_path": base_model,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
            "lora_dropout": lora["dropout"],
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": lora["rank"],
            "revision": revision,
            "target_modules": sorted({name.split(".")[-2] for name in adapted}),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        },
    )


def _save(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    try:
        safetensors.numpy.save_file(dict(tensors), path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise PipelineError(
            f"{path}: cannot be written ({' '.join(str(error).split())[:200]}); free some space or make the folder "
            "writable, then run the same command again"
        ) from None


def require_change(merged: MergeRecord, dtype: str) -> None:
    """Refuses a merged model that equals its base.

    Raises:
      PipelineError: no weight changed.
    """
    if merged.changed:
        return
    reason = (
        f"all of the update is lost in rounding to {dtype}" if merged.update_error else "training changed no weight"
    )
    raise PipelineError(
        f"the merged model equals its base ({reason}), so there is nothing to export; train for longer or with a "
        "higher training.learning_rate" + (", or with model.dtype float32" if merged.update_error else "")
    )
