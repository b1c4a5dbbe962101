"""Published folders are converted, loaded and sharded; missing, damaged or other files are refused in one sentence.

The weights are ours, written in Hugging Face's format; test_parity.py compares that format with theirs.
"""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.data.model_files import INDEX_FILE
from gsm8k_grpo.huggingface import config_json, published_model
from gsm8k_grpo.internals import orbax_internals
from gsm8k_grpo.models import building, families, storage
from gsm8k_grpo.models.base_model import load_base_model
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.model_folder_writing import take_over_model, write_model_folder
from published_models import SIZES, random_weights, write_folder
from small_models import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def weights(name):
    return random_weights(name, 0.2)


@pytest.fixture
def folder(name, weights, tmp_path):
    return write_folder(tmp_path / "published", name, weights)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_converted_folder_keeps_its_weights(name, weights, tmp_path, shards):
    folder, output = write_folder(tmp_path / "published", name, weights, shards), tmp_path / "model"
    chosen = {"name": "small", "architecture": SIZES[name], "dtype": "float32"}
    write_model_folder(
        output,
        chosen,
        lambda making: (published_model.convert_model(folder, SIZES[name], making), {"source": "folder"}),
    )
    manifest = files.read_json(output / "model.json")
    assert manifest["sha256"]["weights"] == storage.weights_hash(weights)
    assert manifest["sha256"]["tokenizer"] == files.sha256_file(output / "tokenizer.model")
    assert manifest["parameters"] == sum(array.size for array in storage.leaves(weights).values())
    loaded = load_base_model(output, make_mesh(1, 1))
    assert storage.weights_hash(storage.weights_of(loaded.model)) == manifest["sha256"]["weights"]
    template = family_of(SIZES[name]).template
    assert [loaded.tokenizer.piece_to_id(token) for token in template.stops] == list(loaded.stop_ids)
    kept = {path.name for path in (output / "published").iterdir()}
    assert "config.json" in kept and not any("safetensors" in file for file in kept)
    assert not list(output.glob(".making*"))


def test_a_miniature_takes_over_weights_that_were_pretrained_in_the_same_way(name, weights, folder, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    chosen = {"name": "first", "architecture": SIZES[name], "dtype": "float32"}
    write_model_folder(
        first, chosen, lambda making: (published_model.convert_model(folder, SIZES[name], making), {"seed": 3})
    )
    other = {**chosen, "name": "second", "dtype": "bfloat16"}
    write_model_folder(second, other, lambda making: take_over_model(first, making))
    manifest = files.read_json(first / "model.json")
    assert files.read_json(second / "model.json") == {**manifest, "name": "second", "dtype": "bfloat16"}
    loaded = load_base_model(second, make_mesh(1, 1))  # its hash is that of the stored weights
    wide = jax.tree.map(lambda array: array.astype("float32"), storage.weights_of(loaded.model))
    expected = jax.tree.map(lambda array: jnp.asarray(array, "bfloat16").astype("float32"), weights)
    assert storage.weights_hash(wide) == storage.weights_hash(expected)
    files.write_json(first / "model.json", {**manifest, "sha256": {**manifest["sha256"], "weights": "0" * 64}})
    with pytest.raises(PipelineError, match=r"first/weights: has changed since it was made .* model.json says 0000"):
        write_model_folder(second, other, lambda making: take_over_model(first, making))


def change_a_number(model):
    """Weights that load without any complaint: one number of one array is another."""
    weights = random_weights("gemma2", 0.2)
    weights["final_norm"]["scale"][3] += 1
    shutil.rmtree(model / "weights")
    storage.save(weights, model / "weights")


def flip_a_bit(model):
    """In the middle of the arrays' file."""
    path = max(
        (path for path in (model / "weights").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def cut_the_files(model):
    for path in (model / "weights").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-20])


def change_the_tokenizer(model):
    path = model / "tokenizer.model"
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("damage", "part", "says"),
    [
        (
            change_a_number,
            "weights",
            "has changed since it was made (its SHA-256 is {found}, model.json says {recorded})",
        ),
        (flip_a_bit, "weights", ""),
        (cut_the_files, "weights", ""),
        (change_the_tokenizer, "tokenizer.model", "has changed since it was made (its SHA-256 is "),
    ],
    ids=["a number", "a bit", "cut", "tokenizer"],
)
def test_a_damaged_base_model_is_never_used(tmp_path, damage, part, says):
    folder, model = tmp_path / "published", tmp_path / "model"
    write_folder(folder, "gemma2", random_weights("gemma2", 0.2))
    chosen = {"name": "small", "architecture": SIZES["gemma2"], "dtype": "bfloat16"}
    write_model_folder(
        model,
        chosen,
        lambda making: (published_model.convert_model(folder, SIZES["gemma2"], making), {"source": "folder"}),
    )
    load_base_model(model, make_mesh(1, 1))
    recorded = files.read_json(model / "model.json")["sha256"]["weights"]
    damage(model)
    with pytest.raises(PipelineError) as refused:
        load_base_model(model, make_mesh(1, 1))
    error = str(refused.value)
    assert error.startswith(f"{model / part}: ") and f"delete {model} and run Snakemake again, which makes it" in error
    if damage is change_a_number:
        found = storage.arrays_hash(storage.Stored(model / "weights"))
        says = says.format(found=found, recorded=recorded)
    assert says in error


def test_the_threads_that_read_damaged_weights_print_nothing_of_their_own(tmp_path, monkeypatch):
    storage.save(random_weights("gemma2", 0.2), tmp_path / "weights")
    cut_the_files(tmp_path)
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    orbax_internals.hide_closed_event_loops.cache_clear()
    with pytest.raises(PipelineError, match=r"weights: "):
        storage.Stored(tmp_path / "weights").read_all()
    orbax_internals.hide_closed_event_loops.cache_clear()  # the next call installs it in this process for good
    assert not printed


@pytest.mark.slow
def test_published_precision_becomes_the_precision_of_the_settings(name, weights, tmp_path):
    storage.save(weights, tmp_path / "weights")
    saved, sha256 = (
        (tmp_path / "weights", building.tunix_config(SIZES[name]), make_mesh(1, 1)),
        storage.weights_hash(weights),
    )
    half = storage.load(*saved, jnp.bfloat16, sha256)
    assert {leaf[...].dtype for _, leaf in nnx.to_flat_state(nnx.state(half))} == {jnp.dtype("bfloat16")}
    whole = storage.load(*saved, jnp.float32, sha256)

    @nnx.jit
    def logits(model):
        return model(jnp.arange(1, 9)[None], jnp.arange(8)[None], None, jnp.tril(jnp.ones((1, 8, 8), bool)))[0]

    found, expected = (np.asarray(logits(each), "f") for each in (half, whole))
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.slow
def test_no_device_holds_the_whole_of_a_sharded_model(tmp_path):
    program = """
import json, jax.numpy as jnp
from flax import nnx
from pathlib import Path
from gsm8k_grpo.models import building, storage
from gsm8k_grpo.models.lora import with_lora
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.model_folder_writing import take_over_model, write_model_folder
for architecture, folder, mesh, modules, sha256 in json.loads(input()):
    mesh = make_mesh(*mesh)
    model = storage.load(Path(folder), building.tunix_config(architecture), mesh, jnp.float32, sha256)
    lora = {"rank": 4, "alpha": 4, "dropout": 0, "base_weights": None, "target_modules": modules}
    for each in (model, with_lora(model, lora, 0, mesh)):
        held, whole = {}, 0
        for path, leaf in nnx.to_flat_state(nnx.state(each)):
            whole += leaf[...].nbytes
            for shard in leaf[...].addressable_shards:
                held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
        print(json.dumps([whole, *held.values()]))
"""
    cases = []
    for name, architecture in SIZES.items():
        weights = random_weights(name)
        storage.save(weights, tmp_path / name)
        # KV heads limit tp: Gemma 3 1B has one.
        mesh = (4, 1) if architecture["num_kv_heads"] == 1 else (2, 2)
        modules = family_of(architecture).lora_modules
        cases.append([architecture, str(tmp_path / name), mesh, modules, storage.weights_hash(weights)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(cases),
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT / "scripts"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(SIZES)
    for line in lines:
        whole, *held = json.loads(line)
        assert len(held) == 4
        assert max(held) < 0.4 * whole, (
            whole,
            held,
        )  # each device has whole norms and biases, or shards them by tp alone


# config.json as on the hub.
HUB = {
    "gemma2_2b": {
        **{"architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0},
        **{
            "attn_logit_softcapping": 50.0,
            "bos_token_id": 2,
            "cache_implementation": "hybrid",
            "eos_token_id": [1, 107],
        },
        **{"final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh"},
        **{"hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02},
        **{"intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2"},
        **{"num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0},
        **{"query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096},
        **{"torch_dtype": "bfloat16", "transformers_version": "4.42.4", "use_cache": True, "vocab_size": 256000},
    },
    "gemma3_1b": {
        **{"architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0},
        **{
            "attn_logit_softcapping": None,
            "bos_token_id": 2,
            "cache_implementation": "hybrid",
            "eos_token_id": [1, 106],
        },
        **{"final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh"},
        **{"hidden_size": 1152, "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768},
        **{"model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1},
        **{"pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000},
        **{"rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6},
        **{"torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "use_cache": True, "vocab_size": 262144},
    },
    "gemma3_270m": {
        **{"_sliding_window_pattern": 6, "architectures": ["Gemma3ForCausalLM"], "attention_bias": False},
        **{"attention_dropout": 0.0, "attn_logit_softcapping": None, "bos_token_id": 2, "eos_token_id": 1},
        **{"final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh"},
        **{"hidden_size": 640, "initializer_range": 0.02, "intermediate_size": 2048, "max_position_embeddings": 32768},
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
        **{"model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1},
        **{"pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0},
        **{"rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 512, "torch_dtype": "bfloat16"},
        **{"transformers_version": "4.55.0.dev0", "use_bidirectional_attention": False, "use_cache": True},
        "vocab_size": 262144,
    },
    "qwen2.5_0.5b": {
        **{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643},
        **{"eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02},
        **{"intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2"},
        **{"num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06},
        **{"rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
        **{"transformers_version": "4.43.1", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936},
    },
}


@pytest.mark.parametrize("preset", families.PRESETS)
def test_the_hubs_configuration_is_that_of_the_preset(preset, tmp_path):
    for other, published in HUB.items():
        (tmp_path / "config.json").write_text(json.dumps(published))
        if other == preset:
            config_json.check_config(tmp_path, preset)
        else:
            with pytest.raises(PipelineError, match=f"config.json: .* is .* model.architecture {preset} (is|has)"):
                config_json.check_config(tmp_path, preset)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("hidden_size", 2048, "hidden_size is 2048, model.architecture gemma3_1b has 1152"),
        ("rope_scaling", {"rope_type": "linear", "factor": 8.0}, "rope_parameters is .*linear"),
        ("sliding_window_pattern", 2, "layer_types is "),
        ("model_type", "lfm2", "model_type is 'lfm2', model.architecture gemma3_1b is gemma3_text"),
        ("use_bidirectional_attention", True, "sliding_window is |use_bidirectional_attention is True"),
        ("num_hidden_layers", "many", "not a configuration of gemma3_text"),
    ],
)
def test_another_model_is_refused_by_the_key(tmp_path, key, value, says):
    (tmp_path / "config.json").write_text(json.dumps({**HUB["gemma3_1b"], key: value}))
    with pytest.raises(PipelineError, match=says) as refused:
        config_json.check_config(tmp_path, "gemma3_1b")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("final_logit_softcapping", None),
        ("attn_logit_softcapping", 30.0),
        ("query_pre_attn_scalar", 144),
        ("head_dim", 288),
        ("hidden_activation", "gelu"),
        ("attention_bias", True),
        ("layer_types", ["full_attention"] * 26),
        ("sliding_window", 2048),
        ("use_bidirectional_attention", True),
    ],
)
def test_every_key_that_changes_gemma_2s_computation_is_compared(tmp_path, key, value):
    (tmp_path / "config.json").write_text(json.dumps({**HUB["gemma2_2b"], key: value}))
    with pytest.raises(PipelineError, match=f"config.json: {key} is "):
        config_json.check_config(tmp_path, "gemma2_2b")


def test_only_the_models_files_and_its_licence_are_kept_for_the_export(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    kept = {"config.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE", "merges.txt"}
    others = {"adapter_config.json", "kaggle.json", "notes.txt", "model.safetensors", INDEX_FILE}
    for name in kept | others:
        (folder / name).write_text("{}")
    published_model.copy_published(folder, tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == kept
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(PipelineError, match=r"tokenizer\.json, line 1: not valid JSON .* fetch or write it again"):
        published_model.copy_published(folder, tmp_path / "again")


def without(name):
    return lambda folder: (folder / name).unlink()


def torn(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def retensored(change):
    def apply(folder):
        path = folder / "model.safetensors"
        safetensors.numpy.save_file(change(safetensors.numpy.load_file(path)), path)

    return apply


NORM = "model.norm.weight"
FAULTS = {
    "no configuration": (without("config.json"), "config.json"),
    "no weights": (without("model.safetensors"), "expected model.safetensors, or model.safetensors.index.json"),
    "torn weights": (torn, "model.safetensors: not a readable safetensors file"),
    "a missing tensor": (
        retensored(lambda tensors: {key: value for key, value in tensors.items() if key != NORM}),
        f"{NORM} and 0 other tensors are missing",
    ),
    "an unknown tensor": (
        retensored(lambda tensors: {**tensors, "model.extra": tensors[NORM]}),
        "model.extra is not a tensor of model.architecture",
    ),
    "another shape": (
        retensored(lambda tensors: {**tensors, NORM: tensors[NORM][:-1]}),
        f"{NORM} has shape (31,) here, model.architecture says (32,)",
    ),
    "quantised weights": (
        retensored(lambda tensors: {**tensors, NORM: tensors[NORM].astype("int8")}),
        f"{NORM} is I8, expected one of F64, F32, F16, BF16",
    ),
    "a configuration that is not an object": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "expected a JSON object",
    ),
    "a quantised model": (
        lambda folder: (folder / "config.json").write_text(
            json.dumps({**json.loads((folder / "config.json").read_text()), "quantization_config": {"bits": 4}})
        ),
        "its weights are quantised (quantization_config)",
    ),
    "an index without its files": (
        lambda folder: (folder / INDEX_FILE).write_text('{"weight_map": {"a": "model-00001.safetensors"}}'),
        "model-00001.safetensors: no such file, but model.safetensors.index.json names it",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_refused_in_one_sentence(folder, name, fault):
    damage, says = FAULTS[fault]
    damage(folder)
    with pytest.raises(PipelineError) as refused:
        published_model.read_model(folder, SIZES[name])
    assert says in str(refused.value) and str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_a_copy_of_the_tied_embedding_is_accepted(folder, name, weights):
    retensored(lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})(folder)
    found, _ = published_model.read_model(folder, SIZES[name])
    assert storage.weights_hash(found) == storage.weights_hash(weights)


def test_a_folder_without_tokenizer_or_with_the_wrong_layout_is_refused(folder, name, tmp_path):
    for file in ("tokenizer.model", "tokenizer.json"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(PipelineError, match=r"expected .*tokenizer\.json, the model's tokenizer"):
        published_model.read_model(folder, SIZES[name])
    (tmp_path / "flax" / "checkpoint").mkdir(parents=True)
    (tmp_path / "flax" / "checkpoint" / "_METADATA").write_text("{}")
    with pytest.raises(PipelineError) as refused:
        published_model.read_model(tmp_path / "flax", SIZES[name])
    says = "expected a tokenizer*.model and one folder with a Flax checkpoint"
    assert (says if name == "gemma2" else "a Flax checkpoint of") in str(refused.value)
    if name == "gemma2":
        (tmp_path / "flax" / "tokenizer.model").write_bytes(b"")
        with pytest.raises(PipelineError, match="checkpoint: not a readable Flax checkpoint"):
            published_model.read_model(tmp_path / "flax", SIZES[name])
