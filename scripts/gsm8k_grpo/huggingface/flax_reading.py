"""Reading Kaggle's Flax checkpoints of Gemma 2."""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16)
import numpy as np
from flax import traverse_util

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.huggingface import weight_reading
from gsm8k_grpo.models.families import architecture_sizes, family_of


def read_flax(folder: Path, architecture: Mapping | str) -> dict:
    """The weights of Kaggle's Flax checkpoint of Gemma 2 (Orbax).

    Returns and raises as `weight_reading.read_huggingface`.
    """
    import orbax.checkpoint as ocp

    expected = weight_reading.expected_shapes(architecture)
    with ocp.PyTreeCheckpointer() as checkpointer:
        try:
            metadata = checkpointer.metadata(folder.absolute()).item_metadata.tree
            on_host = _map_tree(metadata, ocp.RestoreArgs(restore_type=np.ndarray))
            stored = checkpointer.restore(folder.absolute(), restore_args=on_host)
        except (ValueError, KeyError, OSError, AttributeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise PipelineError(f"{folder}: not a readable Flax checkpoint ({reason}); fetch it again") from None
    flat = {"/".join(path): array for path, array in traverse_util.flatten_dict(stored).items()}
    table = list(family_of(architecture).flax_tensors(architecture_sizes(architecture)))
    weight_reading.require_all(folder, {name for _, name, _ in table}, flat)
    found = {}
    for path, name, part in table:
        found[path] = weight_reading.checked_array(folder, name, part, flat[name], expected[path])
    return traverse_util.unflatten_dict(found)


def _map_tree(tree: object, value: object) -> object:
    return {key: _map_tree(item, value) for key, item in tree.items()} if isinstance(tree, Mapping) else value
