"""A step's groups as the micro-batches that Tunix's trainer gets."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsm8k_grpo.common import estimators
from gsm8k_grpo.config.batch_sizes import micro_batch
from gsm8k_grpo.generation import padding
from gsm8k_grpo.grpo.groups import Group
from gsm8k_grpo.grpo.loss import TrainExample

COMPLETION_LENGTHS = 4  # the number of lengths that completions are padded to; each one that occurs is compiled for


def make_micro_batches(
    groups: list[Group],
    advantages: np.ndarray,
    training_settings: Mapping,
    pad_id: int,
    mesh: Mesh,
    packs: bool,
    dropout_key: jax.Array | None,
) -> list[TrainExample]:
    """Splits a mini-batch into micro-batches on the mesh. Completions of similar length share one, to be padded little.

    Without a KL penalty, a completion whose advantage is 0 has no gradient. Micro-batches of such completions alone are
    left out, and the metrics are means over the tokens of the others.

    Args:
      groups: N groups of G completions.
      advantages: [N · G].
      mesh: where the arrays are placed, the first axis sharded over `fsdp`.
      packs: whether padding is left out of the computation.
      dropout_key: the step's key; None without dropout.

    Returns:
      the micro-batches; none where no completion has a gradient.
    """
    generations, size = training_settings["num_generations"], micro_batch(training_settings)
    limit_tokens = training_settings["max_completion_tokens"]
    completions = [ids for group in groups for ids in group.completion_ids]
    lengths = np.array([len(ids) for ids in completions])
    mask = np.arange(limit_tokens) < lengths[:, None]
    completion_ids = np.full(mask.shape, pad_id, np.int32)
    completion_ids[mask] = np.concatenate(completions)
    counted = mask.copy()
    if training_settings["truncated_completions"] == "mask":
        counted[np.concatenate([group.truncated for group in groups])] = False
    loss_weights = estimators.loss_weights(counted, training_settings["loss_aggregation"], limit_tokens)
    has_gradient = counted.any(axis=1) & (bool(training_settings["beta"]) | (advantages != 0))
    parts = _parts(lengths, has_gradient, generations, size)
    computed = np.isin(np.arange(len(lengths)), parts)
    mean_weights = estimators.loss_weights(mask & computed[:, None], "token", limit_tokens)
    prompt_ids = np.array([group.prompt_ids for group in groups])
    copies = padding.prompt_copies(max(1, size // generations), min(size, generations), mesh.shape["fsdp"])

    def on_mesh(array: np.ndarray, axis: str | None = "fsdp") -> jax.Array:
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(axis)))

    micro_batches = []
    for index, rows in enumerate(parts):
        tokens = padding.padded_length(lengths[rows].max(), limit_tokens, COMPLETION_LENGTHS)
        trimmed = np.repeat(_trimmed(prompt_ids[rows[::generations] // generations], pad_id), copies, axis=0)
        places = padding.packed_places(mask[rows, :tokens]) if packs else None
        key = None if dropout_key is None else jax.random.key_data(jax.random.fold_in(dropout_key, index))
        micro_batches.append(
            TrainExample(
                prompt_ids=on_mesh(trimmed),
                prompt_mask=on_mesh(trimmed != pad_id),
                completion_ids=on_mesh(completion_ids[rows, :tokens]),
                completion_mask=on_mesh(mask[rows, :tokens]),
                advantages=on_mesh(advantages[rows]),
                ref_per_token_logps=None,
                old_per_token_logps=None,
                loss_weights=on_mesh(loss_weights[rows, :tokens]),
                mean_weights=on_mesh(mean_weights[rows, :tokens]),
                packed_places=None if places is None else on_mesh(places, None),
                dropout_key=None if key is None else on_mesh(np.asarray(key), None),
            )
        )
    return micro_batches


def _parts(lengths: np.ndarray, has_gradient: np.ndarray, generations: int, size: int) -> list[np.ndarray]:
    """Chooses the completions of each micro-batch: whole groups, or parts of one group.

    Args:
      lengths, has_gradient: [N · G].
      size: the completions of a micro-batch, a multiple or a divisor of G.

    Returns:
      arrays of `size` indices. Parts without any gradient are missing.
    """
    groups = np.arange(len(lengths)).reshape(-1, generations)
    if size < generations:
        shorter_first = np.lexsort((lengths[groups], ~has_gradient[groups]))
        ordered = np.take_along_axis(groups, shorter_first, axis=1)
    else:
        ordered = groups[np.lexsort((lengths[groups].max(axis=1), ~has_gradient[groups].any(axis=1)))]
    return [part for part in ordered.reshape(-1, size) if has_gradient[part].any()]


def _trimmed(prompt_ids: np.ndarray, pad_id: int) -> np.ndarray:
    """[N, P] left-padded prompts, cut to the shortest padded length that holds the longest of them."""
    longest = (prompt_ids != pad_id).sum(axis=1).max()
    length = padding.padded_length(longest, prompt_ids.shape[1], padding.PROMPT_LENGTHS)
    return prompt_ids[:, prompt_ids.shape[1] - length :]
