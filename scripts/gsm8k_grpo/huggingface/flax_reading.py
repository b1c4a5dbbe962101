"""Reading Kaggle's Flax checkpoints of Gemma 2."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16)
import numpy as np
from flax import traverse_util

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.huggingface import weight_reading
from gsm8k_grpo.models import families


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
    table = dict(_flax_table(families.architecture_sizes(architecture)))
    weight_reading.require_all(folder, {name for name, _ in table.values()}, flat)
    found = {}
    for path, (name, part) in table.items():
        found[path] = weight_reading.checked_array(folder, name, part, flat[name], expected[path])
    return traverse_util.unflatten_dict(found)


def _map_tree(tree: object, value: object) -> object:
    return {key: _map_tree(item, value) for key, item in tree.items()} if isinstance(tree, Mapping) else value


def _flax_table(sizes: Mapping) -> Iterator[tuple]:
    """(our path, (Kaggle's name, the part of that array)), for all weights of Gemma 2."""

    def whole(array: np.ndarray) -> np.ndarray:
        return array

    pieces = sizes["vocabulary_size"]  # the array has more rows than the tokenizer has pieces
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
