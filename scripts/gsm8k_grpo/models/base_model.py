"""Loads a base model's folder (results/models/NAME) and the checkpoints that were trained from it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models import building, matmul_order, storage, tokenizers
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.lora_merging import can_merge, merge_into


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """Weights on a mesh, their configuration, the tokenizer, the ids that end a completion, and the files' hashes."""

    model: nnx.Module
    config: object
    tokenizer: object
    stop_ids: tuple[int, ...]
    sha256: dict


def load_base_model(folder: Path, mesh: Mesh) -> BaseModel:
    """Loads what the stage `base_model` wrote.

    Raises:
      PipelineError: a part is missing, has changed or belongs to another model.
    """
    manifest = files.read_json(folder / "model.json")
    template = family_of(manifest["architecture"]).template
    tokenizer = tokenizers.load_recorded_tokenizer(folder, manifest)
    config = building.tunix_config(manifest["architecture"])
    rows = building.vocabulary_size(config)
    if len(tokenizer) > rows:
        raise PipelineError(
            f"{folder / 'tokenizer.model'}: has {len(tokenizer)} pieces, more than the model's {rows} embeddings; use "
            "the model's own tokenizer"
        )
    if matmul_order.on_cpu(mesh) and manifest["parameters"] >= jax_setup.LARGE_FROM_PARAMETERS:
        jax_setup.return_large_buffers()
    dtype, weights_sha256 = jnp.dtype(manifest["dtype"]), manifest["sha256"]["weights"]
    model = storage.load(folder / "weights", config, mesh, dtype, weights_sha256)
    return BaseModel(model, config, tokenizer, tokenizers.stop_ids(tokenizer, template), manifest["sha256"])


def checkpoint_folder(sha256: dict, manifest_file: Path, name: str) -> Path:
    """Finds the folder of one checkpoint.

    Args:
      sha256: of the base model's files, from its model.json.
      manifest_file: checkpoints.json of the training.
      name: such as `final`.

    Raises:
      PipelineError: there is no such checkpoint, its files have changed, or it was trained from another base (by hash).
    """
    manifest = files.read_json(manifest_file)
    if manifest["model"] != sha256:
        raise PipelineError(
            f"{manifest_file}: these adapters were trained on another base model than the one given; train again with "
            "--forcerun train"
        )
    by_name = {checkpoint["name"]: checkpoint for checkpoint in manifest["checkpoints"]}
    if name not in by_name:
        raise PipelineError(f"{manifest_file}: no checkpoint {name!r}; there are {', '.join(by_name)}")
    folder = manifest_file.parent / by_name[name]["path"]
    if not folder.is_dir() or files.sha256_tree(folder) != by_name[name]["sha256"]:
        raise PipelineError(
            f"{folder}: is not the checkpoint that training wrote (missing or changed); run again with --forcerun "
            "train, which sets it aside and makes it again from the previous one"
        )
    return folder


def stored_checkpoint(folder: Path) -> storage.Stored:
    """Reads a checkpoint's arrays, adapters or all weights, by their paths in Tunix's state."""
    return storage.Stored(folder / "model_params")


def load_checkpoint(base: BaseModel, manifest_file: Path, name: str, mesh: Mesh) -> nnx.Module:
    """Loads the policy of one checkpoint: the base model with its adapters, or with all weights as trained.

    Raises what `checkpoint_folder` raises.
    """
    from gsm8k_grpo.models.lora import make_policy, trained_variables  # here: Qwix takes long to import

    folder, manifest = checkpoint_folder(base.sha256, manifest_file, name), files.read_json(manifest_file)
    policy = make_policy(base.model, manifest["lora"], manifest["seed"], mesh)
    trained = nnx.state(policy, trained_variables(manifest["lora"]))
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(
            (folder / "model_params").absolute(),
            ocp.args.PyTreeRestore(item=trained, restore_args=ocp.checkpoint_utils.construct_restore_args(trained)),
        )
    nnx.update(policy, restored)
    return policy


def load_for_evaluation(
    base: BaseModel, manifest_file: Path | None, name: str, mesh: Mesh, keeps_base: bool = False
) -> nnx.Module:
    """Loads the policy and merges its adapters where `can_merge` allows it, so that it shares the base's programs.

    `base.model` is the policy named `base`. With another name, it cannot be used afterwards, unless `keeps_base`, which
    takes the memory of a second model. Raises what `checkpoint_folder` raises.
    """
    if name == "base":
        return base.model
    lora = files.read_json(manifest_file)["lora"]
    if not can_merge(lora, base.model.embedder.input_embedding.dtype, matmul_order.on_cpu(mesh)):
        return load_checkpoint(base, manifest_file, name, mesh)
    stored = stored_checkpoint(checkpoint_folder(base.sha256, manifest_file, name)).read_all()
    graph, weights = nnx.split(base.model)

    def merge(weights: nnx.State, adapters: list[jax.Array]) -> nnx.State:
        return nnx.state(merge_into(nnx.merge(graph, weights), dict(zip(stored, adapters, strict=True)), lora))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, weights)
    merged = jax.jit(merge, donate_argnums=() if keeps_base else 0, out_shardings=shardings)
    return nnx.merge(graph, merged(weights, list(stored.values())))
