"""A step's groups as the micro-batches that Tunix's trainer gets."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsm8k_grpo.common import estimators
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
    """Splits a mini-batch into micro-batches on the mesh. Groups of similar length share one, which is padded little.

    Args:
      groups: N groups of G completions.
      advantages: [N · G].
      mesh: where the arrays are placed, the first axis sharded over `fsdp`.
      packs: whether padding is left out of the computation.
      dropout_key: the step's key; None without dropout.
    """
    generations, prompts = training_settings["num_generations"], training_settings["micro_batch_prompts"]
    limit_tokens = training_settings["max_completion_tokens"]
    lengths = np.array([[len(ids) for ids in group.completion_ids] for group in groups])  # [N, G]
    order = np.argsort(lengths.max(axis=1), kind="stable")
    groups, lengths = [groups[index] for index in order], lengths[order].reshape(-1)
    advantages = advantages.reshape(-1, generations)[order].reshape(-1)
    mask = np.arange(limit_tokens) < lengths[:, None]
    completion_ids = np.full(mask.shape, pad_id, np.int32)
    completion_ids[mask] = np.concatenate([ids for group in groups for ids in group.completion_ids])
    counted = mask.copy()
    if training_settings["truncated_completions"] == "mask":
        counted[np.concatenate([group.truncated for group in groups])] = False
    loss_weights = estimators.loss_weights(counted, training_settings["loss_aggregation"], limit_tokens)
    mean_weights = estimators.loss_weights(mask, "token", limit_tokens)
    prompt_ids = np.array([group.prompt_ids for group in groups])
    copies = padding.prompt_copies(prompts, generations, mesh.shape["fsdp"])

    def on_mesh(array: np.ndarray, axis: str | None = "fsdp") -> jax.Array:
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(axis)))

    starts = range(0, len(groups), prompts)
    # Tunix takes the mean of the micro-batches' gradients, and the loss is their sum.
    scale = np.float32(len(starts))
    micro_batches = []
    for index, start in enumerate(starts):
        rows = slice(start * generations, (start + prompts) * generations)
        cells = rows, slice(padding.padded_length(lengths[rows].max(), limit_tokens, COMPLETION_LENGTHS))
        trimmed = np.repeat(_trimmed(prompt_ids[start : start + prompts], pad_id), copies, axis=0)
        places = padding.packed_places(mask[cells]) if packs else None
        key = None if dropout_key is None else jax.random.key_data(jax.random.fold_in(dropout_key, index))
        micro_batches.append(
            TrainExample(
                prompt_ids=on_mesh(trimmed),
                prompt_mask=on_mesh(trimmed != pad_id),
                completion_ids=on_mesh(completion_ids[cells]),
                completion_mask=on_mesh(mask[cells]),
                advantages=on_mesh(advantages[rows]),
                ref_per_token_logps=None,
                old_per_token_logps=None,
                loss_weights=on_mesh(loss_weights[cells] * scale),
                mean_weights=on_mesh(mean_weights[cells] * scale),
                packed_places=None if places is None else on_mesh(places, None),
                dropout_key=None if key is None else on_mesh(np.asarray(key), None),
            )
        )
    return micro_batches


def _trimmed(prompt_ids: np.ndarray, pad_id: int) -> np.ndarray:
    """[N, P] left-padded prompts, cut to the shortest padded length that holds the longest of them."""
    longest = (prompt_ids != pad_id).sum(axis=1).max()
    length = padding.padded_length(longest, prompt_ids.shape[1], padding.PROMPT_LENGTHS)
    return prompt_ids[:, prompt_ids.shape[1] - length :]
