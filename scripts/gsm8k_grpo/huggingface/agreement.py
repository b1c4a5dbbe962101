"""How far an exported model's logits are from those of the model that was trained and measured."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tunix.rl import common

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.huggingface import weight_reading
from gsm8k_grpo.models import building, storage, tokenizers
from gsm8k_grpo.models.base_model import load_base_model, load_checkpoint
from gsm8k_grpo.models.mesh import make_mesh

COMPARED_ROWS, COMPLETION_TOKENS = 8, 32
Row = tuple[Sequence[int], Sequence[int]]


def measure_agreement(folder: Path, results: Path, run: str, settings: Mapping) -> dict:
    """Compares the logits of a run's measured model with those of its exported folder (see `compare_logits`).

    Memory holds one model at a time.
    """
    mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
    model = layout.model_folder(results, settings["model"]["name"])
    about = files.read_json(model / "model.json")
    rows, pad_id, measured = _measured_logits(model, results, run, mesh)
    gc.collect()
    exported = load_exported(folder, about["architecture"], about["dtype"], mesh)
    found = compare_logits(measured, completion_logits(exported, rows, pad_id))
    print(
        f"logits of the written model against the measured one: at most {found['largest_difference']:.2g} apart "
        f"(up to {found['largest_logit']:.3g} in size), {found['same_next_token']:.1%} the same next token",
        flush=True,
    )
    return found


def _measured_logits(model: Path, results: Path, run: str, mesh: Mesh) -> tuple[list[Row], int, list[np.ndarray]]:
    """(evaluated prompts with their completions, the id of padding, the logits of the trained model)."""
    evaluation = layout.evaluation_folder(results, run, "final")
    split = files.read_json(evaluation / "metrics.json")["split"]
    prompts = {row["id"]: row["prompt"] for row in files.read_jsonl(layout.prompts_file(results, run, split))}
    completed = [row for row in files.read_jsonl(evaluation / "completions.jsonl") if row["sample"] == 0]
    base = load_base_model(model, mesh)
    encode, pad_id = base.tokenizer.encode, base.tokenizer.pad_id()
    rows = [
        (
            tokenizers.with_bos(base.tokenizer, encode(prompts[row["id"]])),
            [*encode(row["completion"]), base.stop_ids[0]],
        )
        for row in completed[:COMPARED_ROWS]
    ]
    policy = load_checkpoint(base, layout.training_folder(results, run) / "checkpoints.json", "final", mesh)
    return rows, pad_id, completion_logits(policy, rows, pad_id)


def completion_logits(model: nnx.Module, rows: Sequence[Row], pad_id: int) -> list[np.ndarray]:
    """Logits of the first `COMPLETION_TOKENS` tokens of completions, computed without a cache.

    Args:
      model: on its mesh.
      rows: token ids of a prompt, with its <bos>, and of its completion.
      pad_id: fills all rows to one length.

    Returns:
      logits [T, V] of each row, float32 on the host.
    """
    rows = [(prompt, completion[:COMPLETION_TOKENS]) for prompt, completion in rows]
    length = max(len(prompt) + len(completion) for prompt, completion in rows)

    @nnx.jit
    def forward(model: nnx.Module, tokens: jax.Array) -> jax.Array:
        valid = tokens != pad_id
        mask = common.make_causal_attn_mask(valid)
        return model(tokens, common.build_positions_from_mask(valid), None, mask)[0][0].astype(jnp.float32)

    found = []
    for prompt, completion in rows:  # one by one, because logits are large
        tokens = np.full((1, length), pad_id, np.int32)
        tokens[0, : len(prompt) + len(completion)] = [*prompt, *completion]
        first = len(prompt) - 1
        found.append(np.asarray(forward(model, tokens)[first : first + len(completion)]))
    return found


def load_exported(folder: Path, architecture: Mapping | str, dtype: str, mesh: Mesh) -> nnx.Module:
    """The model of an exported folder, read like any published model."""
    arrays = storage.leaves(weight_reading.read_huggingface(folder, architecture))
    return storage.place(arrays, building.tunix_config(architecture), mesh, jnp.dtype(dtype))


def compare_logits(trained: Sequence[np.ndarray], exported: Sequence[np.ndarray]) -> dict:
    """Differences between the logits [T, V] of the same rows, over all tokens.

    Returns:
      `rows`, `tokens`; `largest_logit` (absolute, of the trained model), `largest_difference`, `mean_difference`
      (absolute); `same_next_token` (the share of tokens with the same most likely next token).
    """
    ours, theirs = np.concatenate(trained), np.concatenate(exported)
    difference = np.abs(ours - theirs)
    return {
        "rows": len(trained),
        "tokens": len(ours),
        "largest_logit": float(np.abs(ours).max()),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean(dtype=np.float64)),
        "same_next_token": float(np.mean(ours.argmax(-1) == theirs.argmax(-1))),
    }
