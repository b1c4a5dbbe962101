"""An export computes what was trained: through `transformers` and PEFT, merged and as adapters.

Small models of each family with random weights, so that logits are about 10, and adapters that change them by more than
1. Both sides compute in float32; logits agree to 10⁻⁴. `make parity` installs PyTorch and PEFT.
"""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx, traverse_util

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import word_problems
from gsm8k_grpo.data.model_files import INDEX_FILE
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.huggingface import agreement, config_json, published_model, tensor_names, weight_reading, weight_writing
from gsm8k_grpo.huggingface.model_folder import write_model_files
from gsm8k_grpo.models import families, storage, tokenizers
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.lora import with_lora
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from small_models import FAMILIES, completed, left_padded

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
from logits import LENGTHS, PAD, STOPS, Ids, our_logits, their_logits, with_weights  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
RANK, ALPHA = 3, 5.0


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def published(name, tmp_path_factory):
    """A base, published by `transformers` in several files."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_json.transformers_config(FAMILIES[name])).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.5))
    folder = tmp_path_factory.mktemp(name)
    model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / INDEX_FILE).is_file() and len(list(folder.glob("*.safetensors"))) > 3
    return folder


@pytest.fixture(scope="module")
def stored(published, name, tmp_path_factory):
    """The base as the stage `base_model` stores it."""
    folder = tmp_path_factory.mktemp("model") / "weights"
    storage.save(weight_reading.read_huggingface(published, FAMILIES[name]), folder)
    return storage.Stored(folder)


def adapted(base, name, base_weights=None, modules=None):
    """The base with adapters whose A and B are both random."""
    modules = modules or families.FAMILIES[name].lora_modules
    lora = {"rank": RANK, "alpha": ALPHA, "dropout": 0, "base_weights": base_weights, "target_modules": modules}
    policy = with_lora(base, lora, 0, make_mesh(1, 1))
    state = nnx.state(policy, nnx.LoRAParam)
    draw = iter(range(1000))
    nnx.update(
        policy, jax.tree.map(lambda leaf: 0.3 * jax.random.normal(jax.random.key(next(draw)), leaf.shape), state)
    )
    return policy


def arrays(policy):
    state = nnx.to_pure_dict(nnx.state(policy, nnx.LoRAParam))
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(state).items()}


@pytest.fixture(scope="module")
def base(published, name):
    return with_weights(weight_reading.read_huggingface(published, FAMILIES[name]), FAMILIES[name])


@pytest.fixture(scope="module")
def trained(base, name):
    return adapted(base, name)


@pytest.fixture(scope="module")
def factors(trained, name):
    return weight_writing.lora_factors(FAMILIES[name], arrays(trained))


def write(folder, name, stored, factors, dtype="float32", **options):
    """Writes the merged weights with their config.json; returns the record of the merge."""
    shape_of = weight_reading.expected_shapes(FAMILIES[name]).get
    kept = weight_writing.write_weights(
        folder, FAMILIES[name], stored, shape_of, dtype, factors, ALPHA / RANK, **options
    )
    config = json.loads(config_json.transformers_config(FAMILIES[name]).to_json_string())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
    return kept


@pytest.fixture(scope="module")
def exported(name, stored, factors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    kept = write(folder, name, stored, factors)
    assert kept.changed == kept.weights == sum(a.shape[1] * b.shape[0] for a, b in factors.values())
    assert kept.update_error < 1e-6
    return folder


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def theirs(exported):
    return load(exported)


@pytest.fixture(scope="module")
def rows(name):
    """[B, T] left-padded tokens, longer than the windows."""
    return left_padded(LENGTHS, FAMILIES[name]["vocabulary_size"], PAD)


def apart(first, second, rows):
    return np.abs(first - second)[rows != PAD].max()


def test_the_merged_model_has_the_trained_models_logits_and_not_the_bases(base, trained, theirs, published, rows):
    expected = our_logits(trained, rows)
    assert apart(their_logits(theirs, rows), expected, rows) < TOLERANCE
    assert apart(our_logits(base, rows), expected, rows) > 1
    assert apart(their_logits(load(published), rows), expected, rows) > 1


def test_peft_puts_the_adapters_on_the_base_to_the_same_logits(name, trained, published, factors, rows, tmp_path):
    lora = {"rank": RANK, "alpha": ALPHA, "dropout": 0.1}
    weight_writing.write_adapter(tmp_path / "adapter", factors, lora, str(published), None)
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert config.base_model_name_or_path == str(published) and config.lora_alpha == 5
    loaded = peft.PeftModel.from_pretrained(load(config.base_model_name_or_path), tmp_path / "adapter").eval()
    has = {key for key in loaded.state_dict() if "lora_" in key}
    assert len(has) == 2 * len(factors) == 2 * 7 * FAMILIES[name]["num_layers"]
    assert apart(their_logits(loaded, rows), our_logits(trained, rows), rows) < TOLERANCE
    # PEFT's own merge gives the same.
    alone = loaded.merge_and_unload()
    assert apart(their_logits(alone, rows), our_logits(trained, rows), rows) < TOLERANCE


def test_adapters_of_some_modules_alone(name, base, stored, rows, tmp_path):
    """Keys and values, which are one array in Gemma, and keys alone in Qwen2.5."""
    module = families.FAMILIES[name].lora_modules[1]
    policy = adapted(base, name, modules=[module])
    found = weight_writing.lora_factors(FAMILIES[name], arrays(policy))
    write(tmp_path, name, stored, found)
    assert apart(their_logits(load(tmp_path), rows), our_logits(policy, rows), rows) < TOLERANCE
    assert apart(our_logits(base, rows), our_logits(policy, rows), rows) > 0.1


def test_the_same_greedy_answers_on_50_prompts(name, trained, theirs):
    tokenizer, limit, rng = Ids(FAMILIES[name]), 12, np.random.default_rng(3)
    bos = [tokenizer.bos_id()] if tokenizer.bos_id() else []
    questions = rng.integers(4, FAMILIES[name]["vocabulary_size"], (50, 12)).tolist()
    mesh = make_mesh(1, 1)
    sampler = Sampler(trained, tokenizer, cache_tokens(16, limit), mesh)
    found = completed(sampler, [tokenizer.decode(ids) for ids in questions], 50, 16, limit, STOPS, mesh)
    asked = torch.tensor([bos + ids for ids in questions])
    with torch.no_grad():
        output = theirs.generate(
            asked,
            attention_mask=torch.ones_like(asked),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=list(STOPS),
            pad_token_id=PAD,
            suppress_tokens=[PAD],
        )
    answers = []
    for row in output[:, asked.shape[1] :].tolist():
        ends = [place for place, token in enumerate(row) if token in STOPS]
        answers.append(tokenizer.decode(row[: ends[0]] if ends else row))
    assert [found[index, 0].text for index in range(50)] == answers
    assert len(set(answers)) > 20


def test_several_files_with_an_index_are_the_same_model(name, stored, factors, exported, tmp_path):
    write(tmp_path, name, stored, factors, shard_bytes=20_000)
    parts = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert len(parts) > 3 and sorted(set(index["weight_map"].values())) == parts
    whole = safetensors.numpy.load_file(exported / "model.safetensors")
    found = {}
    for part in parts:
        tensors = safetensors.numpy.load_file(tmp_path / part)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 20_000
        found |= tensors
    assert found.keys() == whole.keys() == index["weight_map"].keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    for key, tensor in whole.items():
        np.testing.assert_array_equal(found[key], tensor)
    state, expected = (load(folder).state_dict() for folder in (tmp_path, exported))
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_the_same_inputs_give_the_same_bytes(name, stored, factors, exported, tmp_path):
    write(tmp_path, name, stored, factors)
    assert (tmp_path / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()


def test_half_precision_is_merged_in_float32_and_rounded_once(name, stored, factors, tmp_path):
    kept = write(tmp_path, name, stored, factors, dtype="bfloat16")
    assert 0.001 < kept.update_error < 0.1
    state = load(tmp_path).state_dict()
    for entry in tensor_names.tensor_table(FAMILIES[name]):
        for key, tensor in zip(entry.names, entry.to_hf(stored[entry.path]), strict=True):
            wide = tensor.astype(ml_dtypes.bfloat16).astype(np.float32)
            if key in factors:
                a, b = factors[key]
                wide = wide + np.float32(ALPHA / RANK) * (b @ a)
            assert state[key].dtype == torch.bfloat16
            np.testing.assert_array_equal(state[key].float(), wide.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_qlora_is_merged_into_the_base_before_quantisation(name, base, trained, exported, rows):
    """The adapters are those of `trained`; the difference from the quantised model is measured."""
    quantised = adapted(base, name, {"gemma2": "nf4", "gemma3": "int8", "qwen2": "nf4"}[name])
    assert arrays(quantised).keys() == arrays(trained).keys()
    nnx.update(quantised, nnx.state(trained, nnx.LoRAParam))
    difference = apart(their_logits(load(exported), rows), our_logits(quantised, rows), rows)
    assert difference > 100 * TOLERANCE
    row = [token for token in rows[0].tolist() if token != PAD]
    split = [(row[:4], row[4:])]
    mesh = make_mesh(1, 1)
    loaded = agreement.load_exported(exported, FAMILIES[name], "float32", mesh)
    found = agreement.compare_logits(*(agreement.completion_logits(model, split, PAD) for model in (quantised, loaded)))
    assert found["largest_difference"] > 100 * TOLERANCE and found["tokens"] == len(row) - 4
    same = agreement.compare_logits(*(agreement.completion_logits(model, split, PAD) for model in (trained, loaded)))
    assert same["largest_difference"] < TOLERANCE and same["same_next_token"] == 1.0
    # The compared logits are those that predict the completion.
    logits = our_logits(trained, np.array([row]))[0, 3:-1]
    np.testing.assert_allclose(agreement.completion_logits(trained, split, PAD)[0], logits, rtol=0, atol=TOLERANCE)


def test_a_merge_that_is_the_base_is_refused(name, stored, factors, tmp_path):
    nothing = {key: (a, np.zeros_like(b)) for key, (a, b) in factors.items()}
    kept = write(tmp_path, name, stored, nothing)
    with pytest.raises(PipelineError, match=r"equals its base \(training changed no weight\)"):
        weight_writing.require_change(kept, "float32")
    tiny = {key: (a * 1e-5, b * 1e-5) for key, (a, b) in factors.items()}
    large = {
        path: np.sign(stored[path]) + (stored[path] == 0) for path in stored
    }  # bfloat16 numbers near 1 are 2⁻⁸ apart
    (tmp_path / "half").mkdir()
    kept = weight_writing.write_weights(
        tmp_path / "half", FAMILIES[name], large, stored.shape, "bfloat16", tiny, ALPHA / RANK
    )
    with pytest.raises(PipelineError, match=r"lost in rounding to bfloat16.*or with model.dtype float32"):
        weight_writing.require_change(kept, "bfloat16")
    assert kept.update_error == pytest.approx(1)


def test_adapters_of_another_architecture_are_refused(name, trained):
    with pytest.raises(PipelineError, match="belong to no weight of model"):
        weight_writing.lora_factors({**FAMILIES[name], "num_layers": 1}, arrays(trained))
    with pytest.raises(PipelineError, match=r"\(none\)"):
        weight_writing.lora_factors(FAMILIES[name], {})


def test_stored_weights_have_the_hash_of_what_was_saved(name, stored, published, tmp_path):
    weights = weight_reading.read_huggingface(published, FAMILIES[name])
    assert storage.arrays_hash(stored) == storage.weights_hash(weights)
    with pytest.raises(PipelineError, match="no readable weights"):
        storage.Stored(tmp_path / "missing")


def test_each_array_of_the_base_is_read_when_its_file_is_written(name, stored, factors, tmp_path):
    """Memory holds no more than one file's worth."""
    asked, asked_before, save = [], [], weight_writing._save

    class Watched(dict):
        def __getitem__(self, path):
            asked.append(path)
            return stored[path]

    def saved(tensors, path):
        asked_before.append(len(asked))
        save(tensors, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_writing, "_save", saved)
        write(tmp_path, name, Watched(), factors, shard_bytes=20_000)
    files = len(list(tmp_path.glob("*.safetensors")))
    assert len(asked_before) == files > 3 and asked_before[0] < len(stored) / 2
    # Once, except keys and values that are in two files.
    assert set(asked) == set(stored) and len(asked) < len(stored) + files


def test_published_files_beside_the_weights_stay_unchanged(name, published, tmp_path):
    """config.json keeps all but the precision. Generation is as measured, and stops at the end of a turn."""
    template = family_of(FAMILIES[name]).template
    folder, model = tmp_path / "export", tmp_path / "model"
    folder.mkdir(), model.mkdir()
    published_model.copy_published(published, model / "published")
    (model / "published" / "tokenizer_config.json").write_text('{"tokenizer_class": "theirs"}')
    (model / "published" / "generation_config.json").write_text('{"eos_token_id": [1, 7], "repetition_penalty": 1.1}')
    rows, _ = word_problems.generate_problems(seed=0, train_rows=300, test_rows=0)
    texts = [build_prompt("Reason.", row["question"], template) for row in rows]
    (model / "tokenizer.model").write_bytes(train_tokenizer(texts, 600, name))
    tokenizer = tokenizers.load_tokenizer(model / "tokenizer.model", template)
    manifest = {"architecture": FAMILIES[name], "dtype": "bfloat16"}
    greedy = {"temperature": 0, "top_k": None, "top_p": 1.0, "max_completion_tokens": 77}
    write_model_files(folder, model, manifest, greedy)
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (published, folder))
    assert ours == {**theirs, "dtype": "bfloat16"}
    assert (folder / "tokenizer_config.json").read_text() == '{"tokenizer_class": "theirs"}'
    generation = json.loads((folder / "generation_config.json").read_text())
    # Our sampler stops at the same tokens.
    assert generation["eos_token_id"] == [tokenizer.piece_to_id(token) for token in template.stops]
    assert generation["max_new_tokens"] == 77 and generation["do_sample"] is False
    assert "repetition_penalty" not in generation and generation["suppress_tokens"] == [tokenizer.pad_id()]
    write_model_files(folder, model, manifest, {**greedy, "temperature": 0.7, "top_p": 0.9})
    sampled = transformers.GenerationConfig.from_pretrained(folder)
    assert (sampled.do_sample, sampled.temperature, sampled.top_k, sampled.top_p) == (True, 0.7, 0, 0.9)
    assert not list(folder.glob("*.safetensors*"))
