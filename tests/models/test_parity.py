"""Loaded weights compute what Hugging Face's implementation computes: logits, log-probs, greedy completions.

`transformers` writes small random models of each family in float32, and our code reads them. Logits of about 10 agree
to 10⁻⁴. PyTorch is not a dependency of the project: `make parity` installs it.
"""

import copy
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from tunix.generate import utils
from tunix.rl import common

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.huggingface import config_json, flax_reading, tensor_names, weight_reading
from gsm8k_grpo.models import attention, building, storage
from gsm8k_grpo.models.mesh import make_mesh
from small_models import FAMILIES, completed, left_padded

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from logits import LENGTHS, PAD, STOP, STOPS, Ids, forward, our_logits, their_logits, with_weights  # noqa: E402

TOLERANCE = 1e-4
# Of logits in bfloat16: root mean square of the difference, as a share of the logits'.
# Measured: 0.014 (Gemma 2), 0.024 (Gemma 3, seven layers), 0.010 (Qwen2.5).
BFLOAT16_TOLERANCE = 0.04
LONGEST = max(LENGTHS)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def theirs(name):
    """Hugging Face's model of the family: all weights random, norms and biases too."""
    torch.manual_seed(0)
    config = config_json.transformers_config(FAMILIES[name])
    # Eager: PyTorch's own attention, their default, leaves out the soft cap of Gemma 2's attention.
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.5))
    return model


@pytest.fixture(scope="module")
def folder(theirs, name, tmp_path_factory):
    path = tmp_path_factory.mktemp(name)
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(folder, name):
    return with_weights(weight_reading.read_huggingface(folder, FAMILIES[name]), FAMILIES[name])


@pytest.fixture(scope="module")
def rows(name):
    """[B, T] left-padded tokens."""
    return left_padded(LENGTHS, FAMILIES[name]["vocabulary_size"], PAD)


def cached_logits(model, tokens, prompt_tokens):
    """As in sampling: a prompt at once, then token by token into the cache."""
    cache = attention.empty_cache(model.config, len(tokens), LONGEST + 1, jnp.float32)
    valid = jnp.asarray(tokens) != PAD
    positions = utils.build_positions_from_mask(valid)
    prompt = slice(0, prompt_tokens)
    mask = utils.make_causal_attn_mask(valid[:, prompt], LONGEST + 1)
    found, cache = forward(model, jnp.asarray(tokens[:, prompt]), positions[:, prompt], cache, mask)
    found = [np.asarray(found)]
    for step in range(prompt_tokens, tokens.shape[1]):
        mask = utils.compute_attention_masks(step, LONGEST + 1, ~valid)
        logits, cache = forward(
            model, jnp.asarray(tokens[:, step : step + 1]), positions[:, step : step + 1], cache, mask
        )
        found.append(np.asarray(logits))
    return np.concatenate(found, axis=1)


def assert_same_logits(found, expected, tokens):
    real = tokens != PAD
    assert np.abs(expected[real]).max() > 3, "logits too small to tell anything"
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=TOLERANCE)


def test_logits_without_padding_across_the_window(theirs, ours, rows):
    row = rows[:1]
    assert (row != PAD).all()
    assert_same_logits(our_logits(ours, row), their_logits(theirs, row), row)


def test_logits_of_left_padded_rows(theirs, ours, rows):
    assert_same_logits(our_logits(ours, rows), their_logits(theirs, rows), rows)


def test_logits_in_bfloat16(theirs, ours, folder, rows, name):
    """Both round at each operation, not at the same ones: each is about as far from float32 as the other is."""
    rounded = with_weights(weight_reading.read_huggingface(folder, FAMILIES[name]), FAMILIES[name], jnp.bfloat16)
    found = our_logits(rounded, rows).astype("f")
    expected = their_logits(copy.deepcopy(theirs).bfloat16(), rows)
    exact, real = their_logits(theirs, rows), rows != PAD
    ours_off, theirs_off, apart = (
        np.sqrt(np.mean(np.square(one - other)[real])) / np.sqrt(np.mean(np.square(exact)[real]))
        for one, other in ((found, exact), (expected, exact), (found, expected))
    )
    assert 0 < ours_off < 1.5 * theirs_off
    assert apart < BFLOAT16_TOLERANCE


@pytest.mark.parametrize("prompt_tokens", [20, 8], ids=["a prompt longer than the window", "a padded row's beginning"])
def test_logits_with_a_cache(theirs, ours, rows, name, prompt_tokens):
    found = cached_logits(ours, rows, prompt_tokens)
    assert_same_logits(found, their_logits(theirs, rows), rows)


def test_log_probs_as_training_takes_them(theirs, ours, rows):
    """Prompts padded on the left, completions on the right."""
    completions = np.full((len(rows), 12), PAD)
    rng = np.random.default_rng(2)
    for row, length in zip(completions, (12, 5, 9, 1), strict=True):
        row[:length] = rng.integers(4, 60, length)
    graph, state = nnx.split(ours)
    found = common.compute_per_token_logps(
        graph, state, jnp.asarray(rows), jnp.asarray(completions), pad_id=PAD, eos_id=STOP
    )
    whole = np.concatenate([rows, completions], axis=1)
    logits = torch.tensor(their_logits(theirs, whole))[:, LONGEST - 1 : -1]
    expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(completions)[..., None])[..., 0].numpy()
    real = completions != PAD
    np.testing.assert_allclose(np.asarray(found)[real], expected[real], rtol=0, atol=TOLERANCE)


def test_greedy_completions(theirs, ours, rows, name):
    tokenizer, limit = Ids(FAMILIES[name]), 20
    bos = [tokenizer.bos_id()] if tokenizer.bos_id() else []
    prompts = [row[row != PAD].tolist() for row in rows]
    mesh = make_mesh(1, 1)
    sampler = Sampler(ours, tokenizer, cache_tokens(LONGEST + 1, limit), mesh)
    found = completed(sampler, [tokenizer.decode(ids) for ids in prompts], 4, LONGEST + 1, limit, STOPS, mesh)
    for index, ids in enumerate(prompts):
        with torch.no_grad():
            output = theirs.generate(
                torch.tensor([bos + ids]),
                do_sample=False,
                max_new_tokens=limit,
                eos_token_id=list(STOPS),
                pad_token_id=PAD,
                suppress_tokens=[PAD],
            )[0].tolist()
        expected = output[len(bos) + len(ids) :]
        stopped = expected[-1] in STOPS
        assert found[index, 0].text == tokenizer.decode(expected[:-1] if stopped else expected)
        assert (found[index, 0].tokens, found[index, 0].truncated) == (len(expected), not stopped)


# Reading.


def flat(weights):
    return traverse_util.flatten_dict(weights)


def test_several_files_with_an_index_are_the_same_weights(theirs, folder, name, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3 and (tmp_path / weight_reading.INDEX_FILE).is_file()
    one, several = (flat(weight_reading.read_huggingface(path, FAMILIES[name])) for path in (folder, tmp_path))
    assert one.keys() == several.keys()
    for path, array in one.items():
        np.testing.assert_array_equal(array, several[path])


def test_half_precision_is_read_to_the_bit(theirs, name, tmp_path):
    half = transformers.AutoModelForCausalLM.from_config(theirs.config).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    found = flat(weight_reading.read_huggingface(tmp_path, FAMILIES[name]))
    assert {str(array.dtype) for array in found.values()} == {"bfloat16"}
    state = half.state_dict()
    for entry in tensor_names.tensor_table(FAMILIES[name]):
        for tensor, back in zip(entry.names, entry.to_hf(found[entry.path]), strict=True):
            np.testing.assert_array_equal(back.astype(np.float32), state[tensor].float().numpy(), err_msg=tensor)


def test_the_table_has_each_tensor_once_both_ways(theirs, folder, name):
    table, found = (
        tensor_names.tensor_table(FAMILIES[name]),
        flat(weight_reading.read_huggingface(folder, FAMILIES[name])),
    )
    assert len({entry.path for entry in table}) == len(table) == len(found)
    names = [tensor for entry in table for tensor in entry.names]
    state = {key: value.numpy() for key, value in theirs.state_dict().items() if key != "lm_head.weight"}
    assert sorted(names) == sorted(state)
    for entry in table:
        for tensor, back in zip(entry.names, entry.to_hf(found[entry.path]), strict=True):
            np.testing.assert_array_equal(back, state[tensor], err_msg=tensor)
    assert {path: array.shape for path, array in found.items()} == weight_reading.expected_shapes(FAMILIES[name])


def test_kaggles_flax_layout_computes_the_same(tmp_path):
    from published_models import write_flax

    architecture = FAMILIES["gemma2"]
    weights = storage.weights_of(building.initialise(building.tunix_config(architecture), seed=4))
    write_flax(tmp_path / "gemma2-2b-it", architecture, weights)
    found = flax_reading.read_flax(tmp_path / "gemma2-2b-it", architecture)
    assert storage.weights_hash(found) == storage.weights_hash(weights)
    tokens = np.arange(4, 20)[None]
    np.testing.assert_array_equal(
        our_logits(with_weights(found, architecture), tokens), our_logits(with_weights(weights, architecture), tokens)
    )
    with pytest.raises(PipelineError, match="has shape"):
        flax_reading.read_flax(tmp_path / "gemma2-2b-it", {**architecture, "hidden_dim": 40})
    with pytest.raises(PipelineError, match=r"transformer/layer_2/.* missing"):
        flax_reading.read_flax(tmp_path / "gemma2-2b-it", {**architecture, "num_layers": 3})


WRONG = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 47,
    "query_pre_attn_scalar": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("key", WRONG)
def test_another_configuration_is_refused_by_the_key(folder, name, tmp_path, key):
    if key == "query_pre_attn_scalar" and name == "qwen2":
        pytest.skip("Qwen2.5 has no such key")
    written = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, key: WRONG[key]}))
    with pytest.raises(PipelineError, match=rf"config\.json: {key} is .*model\.architecture {name} of these sizes has"):
        config_json.check_config(tmp_path, FAMILIES[name])
