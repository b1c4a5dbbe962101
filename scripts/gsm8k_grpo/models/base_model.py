"""A base model's folder (results/models/NAME) loaded for use, and checkpoints of adapters on top of it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models import building, matmul_order, storage, tokenizers
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.lora import can_merge, make_policy, merge_adapters, trained_variables


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """Weights on a mesh, their configuration, the tokenizer, the ids that completions stop at, and its hashes."""

    model: nnx.Module
    config: object
    tokenizer: object
    stop_ids: tuple[int, ...]
    sha256: dict


def load_base_model(folder: Path, mesh: Mesh) -> BaseModel:
    """Loads what the stage `base_model` wrote."""
    manifest = files.read_json(folder / "model.json")
    template = family_of(manifest["architecture"]).template
    tokenizer = tokenizers.load_tokenizer(folder / "tokenizer.model", template)
    config = building.tunix_config(manifest["architecture"])
    rows = building.vocabulary_size(config)
    if len(tokenizer) > rows:
        raise PipelineError(
            f"{folder / 'tokenizer.model'}: has {len(tokenizer)} pieces, more than the model's {rows} embeddings; it "
            "belongs to another model"
        )
    model = storage.load(folder / "weights", config, mesh, jnp.dtype(manifest["dtype"]))
    return BaseModel(model, config, tokenizer, tokenizers.stop_ids(tokenizer, template), manifest["sha256"])


def checkpoint_folder(sha256: dict, manifest_file: Path, name: str) -> Path:
    """Where training wrote one checkpoint of adapters.

    Args:
      sha256: of the base model's files, as its model.json has it.
      manifest_file: checkpoints.json of the training.
      name: such as `final`.

    Raises:
      PipelineError: no such checkpoint, files that are not those that training wrote, or another base (by hash).
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
            f"{folder}: is not the checkpoint that training wrote (missing or changed); run again with "
            "--forcerun train: it is set aside and made again from the one before"
        )
    return folder


def stored_checkpoint(folder: Path) -> storage.Stored:
    """The arrays of a `checkpoint_folder` by their paths in Tunix's state: adapters, or all weights."""
    return storage.Stored(folder / "model_params")


def load_checkpoint(base: BaseModel, manifest_file: Path, name: str, mesh: Mesh) -> nnx.Module:
    """The base model with the adapters of one checkpoint, or with its weights where all were trained.

    Raises as `checkpoint_folder`.
    """
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


def load_for_evaluation(base: BaseModel, manifest_file: Path, name: str, mesh: Mesh) -> nnx.Module:
    """The same model; where `models.merges`, merged: it shares the base's programs. Ends the use of `base.model`.

    Raises as `checkpoint_folder`.
    """
    policy, lora = load_checkpoint(base, manifest_file, name, mesh), files.read_json(manifest_file)["lora"]
    if not can_merge(lora, base.model.embedder.input_embedding.dtype, matmul_order.on_cpu(mesh)):
        return policy
    graph, adapters, weights = nnx.split(policy, nnx.LoRAParam, ...)
    plain, places = nnx.split(base.model)

    def merge(weights: nnx.State, adapters: nnx.State) -> nnx.State:
        return nnx.state(merge_adapters(nnx.merge(graph, adapters, weights), lora))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, places)
    return nnx.merge(plain, jax.jit(merge, donate_argnums=0, out_shardings=shardings)(weights, adapters))
