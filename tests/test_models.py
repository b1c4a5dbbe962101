"""Models: initialisation, storage, adapters, and what settings assume of the published shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.models.gemma import model as gemma2_lib
from tunix.models.gemma3 import model as gemma3_lib
from tunix.models.qwen2 import model as qwen2_lib

from gsm8k_grpo import families, models
from gsm8k_grpo.errors import PipelineError

ARCHITECTURE = {
    "family": "gemma2",
    "num_layers": 2,
    "embed_dim": 32,
    "hidden_dim": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "vocabulary_size": 64,
    "sliding_window_tokens": 16,
}
LORA = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0,
    "base_weights": None,
    "target_modules": ["q_einsum", "kv_einsum", "attn_vec_einsum", "gate_proj", "down_proj"],
}


@pytest.fixture(scope="module")
def mesh():
    return models.make_mesh(1, 1)


@pytest.fixture(scope="module")
def model():
    return models.initialise(models.config(ARCHITECTURE), seed=0)


def logits(model):
    tokens = jnp.arange(1, 9).reshape(1, 8)
    mask = jnp.tril(jnp.ones((1, 8, 8), bool))
    return np.asarray(model(tokens, jnp.arange(8).reshape(1, 8), None, mask)[0])


@pytest.mark.parametrize(
    ("name", "tunix"),
    [
        ("gemma2_2b", gemma2_lib.ModelConfig.gemma2_2b()),
        ("gemma3_1b", gemma3_lib.ModelConfig.gemma3_1b_it()),
        ("qwen2.5_0.5b", qwen2_lib.ModelConfig.qwen2p5_0p5b_instruct()),
    ],
)
def test_the_published_shapes_are_tunixs(name, tunix):
    config = models.config(name)
    if name == "gemma2_2b":  # without the 128 rows that belong to no token
        assert tunix.num_embed - config.num_embed == 128
        tunix = dataclasses.replace(tunix, num_embed=config.num_embed)
    if name == "gemma3_1b":  # of initial weights, which are loaded
        tunix = dataclasses.replace(tunix, param_dtype=jnp.float32)
    assert config == tunix
    assert models.vocabulary_size(config) == families.PRESETS[name]["vocabulary_size"]


def test_each_family_has_a_published_shape():
    assert {shape["family"] for shape in families.PRESETS.values()} == families.FAMILIES.keys()


def test_no_matrix_starts_at_zero_and_the_seed_decides(model):
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        assert len(leaf.shape) < 2 or float(jnp.std(leaf[...])) > 0.01, path
    again, other = (models.initialise(models.config(ARCHITECTURE), seed) for seed in (0, 1))
    np.testing.assert_array_equal(logits(model), logits(again))
    assert not np.array_equal(logits(model), logits(other))


def test_saved_weights_load_to_the_same_bits(model, mesh, tmp_path):
    models.save(models.weights(model), tmp_path / "weights")
    loaded = models.load(tmp_path / "weights", models.config(ARCHITECTURE), mesh, jnp.float32)
    for first, second in zip(*(jax.tree.leaves(nnx.state(each)) for each in (model, loaded)), strict=True):
        np.testing.assert_array_equal(first, second)
    with pytest.raises(PipelineError, match=r"weights: .*--forcerun base_model"):
        models.load(tmp_path / "weights", models.config({**ARCHITECTURE, "embed_dim": 16}), mesh, jnp.float32)


def test_fresh_adapters_change_nothing_and_share_the_base(model, mesh):
    adapted = models.with_lora(model, LORA, seed=3, mesh=mesh)
    np.testing.assert_array_equal(logits(model), logits(adapted))
    # rank × (in + out) of each adapted matrix, per layer: q 32→4·8, kv 32→2·2·8, output 4·8→32, gate 32→48, down 48→32.
    assert models.count_parameters(adapted, nnx.LoRAParam) == 2 * 4 * (64 + 64 + 64 + 80 + 80)
    base = {path: leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}
    shared = [path for path, leaf in nnx.to_flat_state(nnx.state(adapted)) if path in base]
    assert len(shared) == len(base)
    adapted_state = dict(nnx.to_flat_state(nnx.state(adapted)))
    assert all(adapted_state[path][...] is base[path][...] for path in base), "the policy holds a copy of the base"


@pytest.mark.parametrize(("kind", "closeness"), [("int8", 0.03), ("nf4", 0.4)])
def test_quantised_base_weights_are_smaller_and_compute_nearly_the_same(model, mesh, kind, closeness):
    adapted = models.with_lora(model, {**LORA, "base_weights": kind}, seed=3, mesh=mesh)
    stored = {str(leaf[...].dtype) for path, leaf in nnx.to_flat_state(nnx.state(adapted)) if "qvalue" in path}
    assert stored == {"int8" if kind == "int8" else "uint4"}
    assert 0 < np.abs(logits(adapted) - logits(model)).max() < closeness * np.abs(logits(model)).max()
    # The reference of a quantised policy: the same weights, no adaptation, whatever the policy has learned since.
    reference = models.without_adaptation(adapted)
    before = logits(adapted)
    nnx.update(adapted, jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(adapted, nnx.LoRAParam)))
    np.testing.assert_array_equal(logits(reference), before)
    assert not np.array_equal(logits(adapted), before)


def test_a_mesh_beyond_the_machine_is_refused_by_name():
    with pytest.raises(PipelineError, match=r"mesh: fsdp 64 × tp 4 needs 256 devices"):
        models.make_mesh(64, 4)
