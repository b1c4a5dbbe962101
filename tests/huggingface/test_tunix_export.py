"""The export for Tunix: Tunix's own classes load it, without this project, and compute the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.rl import common
from tunix.sft.checkpoint_manager import CheckpointManager

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.huggingface import config_json, export, tunix_export, weight_reading, weight_writing
from gsm8k_grpo.models import building, families, storage
from gsm8k_grpo.models.stock_tunix import stock_model
from small_models import FAMILIES, ONE_FAMILY_QUICK

SETTINGS = {"mesh": {"fsdp": 1, "tp": 1}, "model": {"name": "small"}}


def exported(results, architecture, dtype="float32"):
    """A finished export of a small model with random weights; returns (its folder, the model)."""
    model, folder = building.initialise(building.tunix_config(architecture), 0), results / "one" / "export"
    weights = storage.leaves(storage.weights_of(model))
    shape_of = weight_reading.expected_shapes(architecture).get

    def write(making):
        weight_writing.write_weights(making, architecture, weights, shape_of, dtype, {}, 0.0)
        config = json.loads(config_json.transformers_config(architecture).to_json_string())
        files.write_json(making / "config.json", config | {"dtype": dtype})
        (making / "adapter").mkdir()
        for name in ("tokenizer.json", "NOTICE", "README.md", "adapter/adapter_model.safetensors"):
            (making / name).write_text(name)
        return {"recipe": "one", "checkpoint": {"step": 30}, "base": {"sha256": "a"}, "adapter_base": "b"}

    export.replace_export(folder, write)
    about = {"name": "small", "architecture": architecture, "dtype": dtype, "sha256": "a"}
    files.write_json(results / "models" / "small" / "model.json", about)
    return folder, model


def stock(manifest):
    """Tunix's own model, with random weights, from what the manifest says."""
    module = __import__(manifest["module"], fromlist=["model"])
    config = eval(manifest["config"], {"models": module, "jnp": jnp})
    return getattr(module, manifest["class"])(config, rngs=nnx.Rngs(1))


@pytest.mark.parametrize("name", ONE_FAMILY_QUICK)
def test_tunix_loads_the_exported_weights_and_computes_the_same_logits(name, tmp_path):
    folder, model = exported(tmp_path, FAMILIES[name])
    written = tmp_path / "one" / "export-tunix"
    made = export.replace_export(
        written, lambda making: tunix_export.write_checkpoint(making, folder, tmp_path, SETTINGS)
    )
    assert {each for each in made["files"] if "/" not in each} == {"config.json", "tokenizer.json", "NOTICE"}
    assert made["checkpoint"] == {"step": 30} and "adapter_base" not in made
    loaded = stock(made["tunix"])
    assert type(loaded).__module__.startswith("tunix.") and isinstance(model, type(loaded))
    step, _ = CheckpointManager(str(written)).maybe_restore(loaded)
    assert step == 30
    ours, theirs = (storage.leaves(storage.weights_of(each)) for each in (model, loaded))
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[path], theirs[path]) for path in ours)
    tokens = jax.random.randint(jax.random.key(2), (2, 5), 3, 64)  # within the windows
    valid = jnp.ones(tokens.shape, bool)
    inputs = tokens, common.build_positions_from_mask(valid), None, common.make_causal_attn_mask(valid)
    assert jnp.allclose(model(*inputs)[0], loaded(*inputs)[0], atol=1e-5)


def test_weights_in_half_precision_stay_bit_for_bit(tmp_path):
    folder, _ = exported(tmp_path, FAMILIES["gemma3"], "bfloat16")
    manifest = tunix_export.write_checkpoint(tmp_path / "out", folder, tmp_path, SETTINGS)
    loaded = stock(manifest["tunix"])
    CheckpointManager(str(tmp_path / "out")).maybe_restore(loaded)
    wanted = storage.leaves(weight_reading.read_huggingface(folder, FAMILIES["gemma3"]))
    for path, array in storage.leaves(storage.weights_of(loaded)).items():
        assert array.dtype == jnp.bfloat16 and np.array_equal(array, wanted[path]), path


@pytest.mark.parametrize("preset", families.PRESETS)
def test_a_published_size_gets_tunixs_own_configuration_and_shapes(preset):
    made = stock_model(preset, "float32")
    assert f"models.ModelConfig.{preset.split('_')[0].replace('.', 'p')}_" in made.code
    abstract = nnx.eval_shape(lambda: made.kind(made.config, rngs=nnx.Rngs(0)))
    shapes = {path: leaf.shape for path, leaf in storage.leaves(nnx.to_pure_dict(nnx.state(abstract))).items()}
    wanted = weight_reading.expected_shapes(preset)
    pieces, width = wanted.pop(tunix_export.EMBEDDING)
    rows, columns = shapes.pop(tunix_export.EMBEDDING)
    assert shapes == wanted and columns == width
    padded = tunix_export.with_rows(np.ones((pieces, 1), np.int8), rows)
    assert padded.shape == (rows, 1) and padded.sum() == pieces


def test_an_export_that_was_changed_or_is_of_another_base_is_refused(tmp_path):
    folder, _ = exported(tmp_path, FAMILIES["gemma2"])
    about = tmp_path / "models" / "small" / "model.json"
    files.write_json(about, files.read_json(about) | {"sha256": "b"})
    with pytest.raises(PipelineError, match=r"export\.json: is of another base model than small is now; make it again"):
        tunix_export.write_checkpoint(tmp_path / "out", folder, tmp_path, SETTINGS)
    (folder / "config.json").write_text("{}")
    with pytest.raises(PipelineError, match=r"config\.json: is missing or was changed after the export"):
        tunix_export.write_checkpoint(tmp_path / "out", folder, tmp_path, SETTINGS)
