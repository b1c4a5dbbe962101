"""Defects of Tunix 0.1.7 in models, adapters and export, each shown on stock Tunix and mended here.

The numbers are those of docs/tunix.md.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
import safetensors.numpy
from flax import nnx
from tunix.models import safetensors_saver
from tunix.models.gemma import model as gemma
from tunix.models.qwen2 import model as qwen2
from tunix.rl import common

from gsm8k_grpo.huggingface import config_json, tensor_names, weight_reading, weight_writing
from gsm8k_grpo.models import building, storage
from gsm8k_grpo.models.lora import with_lora
from small_gemma import PAD, initialised
from small_models import ARCHITECTURE, FAMILIES


def test_stock_misplaces_the_window_behind_padding_and_ours_does_not():
    """A defect without number, in Gemma 2's local layers. test_parity.py shows that Gemma 3's are right."""
    architecture = {**ARCHITECTURE, "sliding_window_tokens": 4}
    model = building.initialise(building.tunix_config(architecture), seed=0)
    weights = storage.weights_of(model)
    stock = gemma.Gemma(building.tunix_config(architecture), rngs=nnx.Rngs(0))
    nnx.update(stock, nnx.state(model))

    @nnx.jit
    def logits(model, tokens):
        valid = tokens != PAD
        return model(tokens, common.build_positions_from_mask(valid), None, common.make_causal_attn_mask(valid))[0]

    tokens = np.arange(200, 212)[None]
    padded = np.concatenate([np.full((1, 5), PAD), tokens], axis=1)
    assert weights.keys() == storage.weights_of(stock).keys()
    np.testing.assert_allclose(logits(stock, tokens), logits(model, tokens), atol=1e-6)
    assert np.abs(logits(stock, padded)[:, 5:] - logits(stock, tokens)).max() > 0.01
    np.testing.assert_allclose(logits(model, padded)[:, 5:], logits(model, tokens), atol=1e-5)


def test_stocks_qwen_takes_no_quantised_weights_and_ours_does(mesh):
    """A defect without number."""
    model = building.initialise(building.tunix_config(FAMILIES["qwen2"]), seed=0)
    lora = {"rank": 4, "alpha": 4, "dropout": 0, "base_weights": "int8", "target_modules": ["q_proj"]}
    stock = qwen2.Qwen2(building.tunix_config(FAMILIES["qwen2"]), rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="astype requires ndarray"):
        with_lora(stock, lora, 0, mesh)(**stock.get_model_input())
    logits, _ = with_lora(model, lora, 0, mesh)(**model.get_model_input())
    assert np.isfinite(logits).all()


LORA = {"rank": 4, "alpha": 8, "dropout": 0.5, "base_weights": None, "target_modules": ["attn_vec_einsum", "down_proj"]}


@nnx.jit
def forward(model):
    tokens, positions = jnp.arange(100, 108).reshape(1, 8), jnp.arange(8).reshape(1, 8)
    return model(tokens, positions, None, jnp.tril(jnp.ones((1, 8, 8), bool)))[0]


def filled(adapted):
    """The model with adapters that are not zero, so that dropout of their inputs has an effect."""
    adapters = nnx.state(adapted, nnx.LoRAParam)
    nnx.update(adapted, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.3), adapters))
    return adapted


@pytest.fixture(scope="module")
def bfloat16(mesh):
    copy = initialised(mesh, num_layers=1)
    nnx.update(copy, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(copy)))
    return copy


@pytest.fixture(scope="module")
def stock_lora(bfloat16):
    provider = qwix.LoraProvider(module_path=".*attn_vec_einsum|.*down_proj", rank=4, alpha=8.0, dropout=0.5)

    @nnx.jit  # faster than eager
    def adapt(model):
        return qwix.apply_lora_to_model(model, provider, **model.get_model_input(), rngs=nnx.Rngs(0))

    return filled(adapt(bfloat16))


@pytest.fixture(scope="module")
def our_lora(bfloat16, mesh):
    return filled(with_lora(bfloat16, LORA, 0, mesh))


def test_dropout_is_an_error_or_in_every_pass_of_stock(stock_lora):
    """A defect without number: sampling, log-probs and evaluation included."""
    with pytest.raises(ValueError, match="Cannot find rngs in the current module"):
        forward(stock_lora)
    with_rngs, passes = nnx.clone(stock_lora), []
    for seed in range(2):
        with_rngs.set_attributes(qwix_rngs=nnx.Rngs(dropout=seed))
        passes.append(forward(with_rngs))
    assert not np.array_equal(*passes)


def test_dropout_needs_to_be_asked_for_here(our_lora):
    """A defect without number."""
    plain = np.asarray(forward(our_lora))
    np.testing.assert_array_equal(forward(our_lora), plain)
    with_rngs = nnx.clone(our_lora)

    def dropped(seed):
        with_rngs.set_attributes(qwix_rngs=nnx.Rngs(dropout=seed))
        return np.asarray(forward(with_rngs))

    assert not np.array_equal(dropped(0), plain)
    assert not np.array_equal(dropped(0), dropped(1))
    np.testing.assert_array_equal(dropped(0), dropped(0))


def test_adapters_are_as_coarse_as_their_base_in_stock_and_float32_here(stock_lora, our_lora):
    """A defect without number: steps of 3e-6 vanish in bfloat16."""

    def dtypes(model, kind):
        return {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(model, kind))}

    assert dtypes(stock_lora, nnx.LoRAParam) == {"bfloat16"}
    assert dtypes(our_lora, nnx.LoRAParam) == {"float32"}
    assert dtypes(our_lora, nnx.Not(nnx.LoRAParam)) == {"bfloat16"}
    assert forward(our_lora).dtype == jnp.bfloat16


def test_stock_exports_neither_gemma_2_nor_qwen_2_5_nor_a_base_in_several_files(tmp_path):
    """Defect 12."""
    has = {
        name: hasattr(importlib.import_module(f"tunix.models.{name}.params"), "save_lora_merged_model_as_safetensors")
        for name in ("gemma", "gemma3", "qwen2", "qwen3")
    }
    assert has == {"gemma": False, "gemma3": True, "qwen2": False, "qwen3": True}
    for index in (1, 2):
        tensors = {f"tensor_{index}": np.zeros(3, np.float32)}
        safetensors.numpy.save_file(tensors, tmp_path / f"model-0000{index}-of-00002.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        safetensors_saver.save_lora_merged_model_as_safetensors(
            str(tmp_path), str(tmp_path / "merged"), nnx.Linear(2, 2, rngs=nnx.Rngs(0)), 1, 1.0, str
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_all_families_are_exported_in_any_number_of_files_here(name, mesh, tmp_path):
    """Defect 12. (What `transformers` computes with it: test_export.py.)"""
    architecture = FAMILIES[name]
    weights = storage.weights_of(building.initialise(building.tunix_config(architecture), seed=0))
    arrays = {path: np.asarray(leaf) for path, leaf in storage.leaves(weights).items()}
    factors = {
        tensor: (np.ones((1, part.shape[1]), np.float32), np.ones((part.shape[0], 1), np.float32))
        for entry in tensor_names.tensor_table(architecture)
        for tensor, part in zip(entry.names, entry.to_hf(arrays[entry.path]), strict=True)
        if "_proj.weight" in tensor
    }
    shapes = {path: array.shape for path, array in arrays.items()}
    arguments = (architecture, arrays, shapes.get, "float32", factors, 0.5)
    weight_writing.write_weights(tmp_path, *arguments, shard_bytes=20_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    (tmp_path / "config.json").write_text(config_json.transformers_config(architecture).to_json_string())
    found = storage.leaves(weight_reading.read_huggingface(tmp_path, architecture))
    changed = {path for path, array in arrays.items() if not np.array_equal(found[path], array)}
    adapted = {entry.path for entry in tensor_names.tensor_table(architecture) if set(entry.names) & set(factors)}
    assert changed == adapted
    for path in adapted:
        np.testing.assert_array_equal(found[path], arrays[path] + np.float32(0.5))
