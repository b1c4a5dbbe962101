"""How far an exported model's logits are from those of the model that was trained and measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from jax.sharding import Mesh
from tunix.rl import common

from gsm8k_grpo.huggingface import weight_reading
from gsm8k_grpo.models import building, storage

COMPARED_ROWS, COMPLETION_TOKENS = 8, 32
Row = tuple[Sequence[int], Sequence[int]]


def completion_logits(model: nnx.Module, rows: Sequence[Row], pad_id: int) -> list[np.ndarray]:
    """Logits of the first `COMPLETION_TOKENS` tokens of completions, without a cache.

    Args:
      model: on its mesh.
      rows: ids of a prompt, its <bos> included, and of its completion.
      pad_id: fills all rows up to one length.

    Returns:
      for each row [T, V], float32 on the host.
    """
    rows = [(prompt, completion[:COMPLETION_TOKENS]) for prompt, completion in rows]
    length = max(len(prompt) + len(completion) for prompt, completion in rows)

    @nnx.jit
    def forward(model: nnx.Module, tokens: jax.Array) -> jax.Array:
        valid = tokens != pad_id
        mask = common.make_causal_attn_mask(valid)
        return model(tokens, common.build_positions_from_mask(valid), None, mask)[0][0].astype(jnp.float32)

    found = []
    for prompt, completion in rows:  # one by one: logits are large
        tokens = np.full((1, length), pad_id, np.int32)
        tokens[0, : len(prompt) + len(completion)] = [*prompt, *completion]
        first = len(prompt) - 1
        found.append(np.asarray(forward(model, tokens)[first : first + len(completion)]))
    return found


def load_exported(folder: Path, architecture: Mapping | str, dtype: str, mesh: Mesh) -> nnx.Module:
    """An exported folder read as any published model is; arrays leave the host as they reach the mesh."""
    arrays = storage.leaves(weight_reading.read_huggingface(folder, architecture))
    graph, state = nnx.split(building.structure(building.tunix_config(architecture), jnp.dtype(dtype)))
    placed = storage.leaves(nnx.to_pure_dict(nnx.get_named_sharding(state, mesh)))
    for path, sharding in placed.items():
        placed[path] = jax.device_put(arrays.pop(path), sharding)
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(placed))
    return nnx.merge(graph, state)


def compare_logits(trained: Sequence[np.ndarray], exported: Sequence[np.ndarray]) -> dict:
    """Differences of logits [T, V] of the same rows, over all tokens.

    Returns:
      `rows`, `tokens`; `largest_logit` (absolute, of the trained model), `largest_difference`, `mean_difference`
      (absolute); `same_next_token` (share of the tokens whose likeliest successor is the same).
    """
    ours, theirs = np.concatenate(trained), np.concatenate(exported)
    apart = np.abs(ours - theirs)
    return {
        "rows": len(trained),
        "tokens": len(ours),
        "largest_logit": float(np.abs(ours).max()),
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart.mean(dtype=np.float64)),
        "same_next_token": float(np.mean(ours.argmax(-1) == theirs.argmax(-1))),
    }
