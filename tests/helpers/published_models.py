"""Small models of each family in the formats in which hubs publish models."""

import json

import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy
from flax import traverse_util

from gsm8k_grpo.data.model_files import INDEX_FILE
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.huggingface import config_json, tensor_names, weight_reading
from gsm8k_grpo.models import storage
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from small_models import FAMILIES, QUESTIONS

SIZES = {name: {**sizes, "vocabulary_size": 420} for name, sizes in FAMILIES.items()}


def write_folder(folder, name, weights, shards=1):
    """Writes a small model of a family as a Hugging Face folder."""
    folder.mkdir(exist_ok=True)
    architecture = SIZES[name]
    config_json.transformers_config(architecture).save_pretrained(folder)
    template = family_of(architecture).template
    texts = [build_prompt("", question, template) for question in QUESTIONS] * 20
    file = family_of(architecture).tokenizer.files[0]
    (folder / file).write_bytes(train_tokenizer(texts, architecture["vocabulary_size"], name))
    arrays = storage.leaves(weights)
    tensors = {}
    for entry in tensor_names.tensor_table(architecture):
        tensors |= dict(zip(entry.names, entry.to_hf(np.asarray(arrays[entry.path])), strict=True))
    tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    if shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {}
    for index in range(shards):
        file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[index::shards])
        safetensors.numpy.save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_flax(folder, architecture, weights):
    """Writes a Flax checkpoint as on Kaggle: flat names, gate and up in one array, more rows than pieces."""
    array = {path: np.asarray(leaf) for path, leaf in storage.leaves(weights).items()}
    pieces = array["embedder", "input_embedding"]
    stored = {
        "transformer/embedder": {"input_embedding": np.concatenate([pieces, np.ones((7, pieces.shape[1]), "f")])},
        "transformer/final_norm": {"scale": array["final_norm", "scale"]},
    }
    for index in range(architecture["num_layers"]):
        layer, ours = f"transformer/layer_{index}", ("layers", index)
        for name in ("q_einsum", "kv_einsum", "attn_vec_einsum"):
            stored[f"{layer}/attn/{name}"] = {"w": array[*ours, "attn", name, "w"]}
        gates = [array[*ours, "mlp", name, "kernel"] for name in ("gate_proj", "up_proj")]
        stored[f"{layer}/mlp/gating_einsum"] = {"w": np.stack(gates)}
        stored[f"{layer}/mlp/linear"] = {"w": array[*ours, "mlp", "down_proj", "kernel"]}
        for name in ("pre_attention_norm", "pre_ffw_norm", "post_ffw_norm"):
            stored[f"{layer}/{name}"] = {"scale": array[*ours, name, "scale"]}
        stored[f"{layer}/post_attention_norm"] = {"scale": array[*ours, "post_attn_norm", "scale"]}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder, stored)


def random_weights(name, scale=1.0):
    """The weights of a family's small model as nested dicts of float32 arrays, always the same."""
    rng, shapes = np.random.default_rng(1), weight_reading.expected_shapes(SIZES[name])
    return traverse_util.unflatten_dict(
        {path: scale * rng.standard_normal(shape, "f") for path, shape in shapes.items()}
    )
