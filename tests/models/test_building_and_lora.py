"""Models: published shapes, initialisation, storage and adapters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.models.gemma import model as gemma2_lib
from tunix.models.gemma3 import model as gemma3_lib
from tunix.models.qwen2 import model as qwen2_lib

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.generation.decoding_state import DrawingOptions
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models import building, families, storage
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.lora import with_lora, with_zero_adapters
from gsm8k_grpo.models.lora_merging import can_merge, merge_adapters
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.preflight import compilation, programs
from small_models import FAMILIES, ONE_FAMILY_QUICK

ARCHITECTURE = FAMILIES["gemma2"]
LORA = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0,
    "base_weights": None,
    "target_modules": ["q_einsum", "kv_einsum", "attn_vec_einsum", "gate_proj", "down_proj"],
}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(1, 1)


@pytest.fixture(scope="module")
def model():
    return building.initialise(building.tunix_config(ARCHITECTURE), seed=0)


@nnx.jit
def forward(model):
    return model(jnp.arange(1, 9)[None], jnp.arange(8)[None], None, jnp.tril(jnp.ones((1, 8, 8), bool)))[0]


def logits(model):
    return np.asarray(forward(model))


@pytest.mark.parametrize(
    ("name", "tunix"),
    [
        ("gemma2_2b", gemma2_lib.ModelConfig.gemma2_2b()),
        ("gemma3_1b", gemma3_lib.ModelConfig.gemma3_1b_it()),
        ("gemma3_270m", gemma3_lib.ModelConfig.gemma3_270m_it()),
        ("qwen2.5_0.5b", qwen2_lib.ModelConfig.qwen2p5_0p5b_instruct()),
    ],
)
def test_the_published_shapes_are_tunixs(name, tunix):
    config = building.tunix_config(name)
    if name == "gemma2_2b":  # without the 128 rows that belong to no token
        assert tunix.num_embed - config.num_embed == 128
        tunix = dataclasses.replace(tunix, num_embed=config.num_embed)
    if name.startswith("gemma3"):  # of initial weights, which are loaded
        tunix = dataclasses.replace(tunix, param_dtype=jnp.float32)
    assert config == tunix
    assert building.vocabulary_size(config) == families.PRESETS[name]["vocabulary_size"]


def test_no_matrix_starts_at_zero_and_the_seed_decides(model):
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        assert len(leaf.shape) < 2 or float(jnp.std(leaf[...])) > 0.01, path
    again, other = (building.initialise(building.tunix_config(ARCHITECTURE), seed) for seed in (0, 1))
    np.testing.assert_array_equal(logits(model), logits(again))
    assert not np.array_equal(logits(model), logits(other))


def test_saved_weights_load_to_the_same_bits(model, mesh, tmp_path):
    weights = storage.weights_of(model)
    storage.save(weights, tmp_path / "weights")
    saved = (
        tmp_path / "weights",
        building.tunix_config(ARCHITECTURE),
        mesh,
        jnp.float32,
        storage.weights_hash(weights),
    )
    loaded = storage.load(*saved)
    for first, second in zip(*(jax.tree.leaves(nnx.state(each)) for each in (model, loaded)), strict=True):
        np.testing.assert_array_equal(first, second)
    other = building.tunix_config({**ARCHITECTURE, "embed_dim": 16})
    with pytest.raises(
        PipelineError, match=r"weights: these weights do not fit model.architecture \(.*; delete .* anew"
    ):
        storage.load(saved[0], other, *saved[2:])


def test_fresh_adapters_have_a_rank_in_each_matrix_and_share_the_base(model, mesh):
    adapted = with_lora(model, LORA, seed=3, mesh=mesh)
    # rank × (in + out) of each adapted matrix, per layer: q 32→4·8, kv 32→2·2·8, output 4·8→32, gate 32→48, down 48→32.
    assert building.count_parameters(adapted, nnx.LoRAParam) == 2 * 4 * (64 + 64 + 64 + 80 + 80)
    base = {path: leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}
    shared = [path for path, leaf in nnx.to_flat_state(nnx.state(adapted)) if path in base]
    assert len(shared) == len(base)
    adapted_state = dict(nnx.to_flat_state(nnx.state(adapted)))
    assert all(adapted_state[path][...] is base[path][...] for path in base), "the policy holds a copy of the base"


@pytest.fixture(scope="module", params=FAMILIES)
def member(request):
    """A small model of each family, of two layers: its modules, the model, its logits."""
    architecture = {**FAMILIES[request.param], "num_layers": 2, "embed_dim": 64, "hidden_dim": 128, "head_dim": 16}
    made = building.initialise(building.tunix_config(architecture), seed=0)
    return list(family_of(architecture).lora_modules), made, logits(made)


def test_matrices_start_with_the_deviation_that_training_from_scratch_needs(member):
    """0.02 in the embedding and in all of Qwen; in Gemma 1/√fan-in, of the numbers that each output sums over."""
    modules, model, _ = member
    matrices = [(path, np.asarray(leaf[...])) for path, leaf in nnx.to_flat_state(nnx.state(model)) if leaf.ndim > 1]
    assert len(matrices) > 12
    for path, matrix in matrices:
        fan_in = 128 if path[-2] == "down_proj" else 64  # hidden_dim; embed_dim, or heads × head_dim
        usual = 0.02 if "input_embedding" in path or "q_proj" in modules else fan_in**-0.5
        assert np.std(matrix) == pytest.approx(usual, rel=0.1), path


def test_fresh_adapters_change_nothing_in_any_family(member, mesh):
    modules, model, before = member
    adapted = with_lora(model, {**LORA, "target_modules": modules}, seed=3, mesh=mesh)
    np.testing.assert_array_equal(logits(adapted), before)
    assert {path[-2] for path, _ in adapters(adapted)} == set(modules)
    layers = {path[1] for path, _ in adapters(adapted)}
    assert len(adapters(adapted)) == 2 * len(modules) * len(layers)


def adapters(model):
    return nnx.to_flat_state(nnx.state(model, nnx.LoRAParam))


@pytest.mark.parametrize("member", ONE_FAMILY_QUICK, indirect=True)
def test_rematerialisation_changes_memory_and_no_gradient(member, mesh):
    """Recomputation draws the same dropout noise."""
    modules, model, _ = member
    lora = {**LORA, "target_modules": modules, "dropout": 0.3}
    tokens, positions = jnp.arange(2 * 64).reshape(2, 64) % 60, jnp.tile(jnp.arange(64), (2, 1))
    mask = jnp.tril(jnp.ones((2, 64, 64), bool))

    def loss(policy):
        training = nnx.merge(*nnx.split(policy))
        for index, layer in enumerate(training.layers):  # as the loss does
            layer.set_attributes(qwix_rngs=nnx.Rngs(dropout=7 + index))
        return jnp.sum(jnp.square(training(tokens, positions, None, mask)[0]))

    def gradient(remat):
        policy = with_lora(model, lora, seed=3, mesh=mesh)
        policy.remat = remat
        graph, trained, rest = nnx.split(policy, nnx.LoRAParam, ...)
        trained = jax.tree.map(lambda leaf: leaf + 0.02, trained)  # or one half of the gradients would be zero

        @jax.jit
        def program(trained, rest):
            policy = nnx.merge(graph, trained, rest)
            return nnx.value_and_grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam))(policy)

        compiled = program.lower(trained, rest).compile(compilation.CPU_COMPILER_OPTIONS)
        return compiled(trained, rest), compiled.memory_analysis().temp_size_in_bytes

    (kept, kept_bytes), (again, again_bytes) = gradient(remat=None), gradient(remat="full")
    assert again_bytes < 0.8 * kept_bytes, (again_bytes, kept_bytes)
    assert float(again[0]) == pytest.approx(float(kept[0]), rel=1e-5)
    for first, second in zip(*map(jax.tree.leaves, (kept[1], again[1])), strict=True):
        assert float(jnp.abs(first).max()) > 0
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4 * float(jnp.abs(first).max()))


@pytest.mark.parametrize("member", ONE_FAMILY_QUICK, indirect=True)
def test_merged_adapters_compute_the_same_with_the_bases_own_programs(member, mesh):
    """Base and checkpoints are so evaluated by one compilation."""
    modules, model, before = member
    graph, state = nnx.split(model)
    model = nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))
    lora = {**LORA, "target_modules": modules}
    adapted = with_lora(model, lora, seed=3, mesh=mesh)
    for path, leaf in adapters(adapted):
        leaf[...] = 0.1 * jax.random.normal(jax.random.key(len(str(path))), leaf.shape)
    expected, programs = logits(adapted), lowered(model, mesh)
    merged = nnx.jit(lambda adapted: merge_adapters(adapted, lora))(adapted)
    np.testing.assert_allclose(logits(merged), expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - before).max() > 0.1 * np.abs(expected).max()
    assert lowered(merged, mesh) == programs != lowered(adapted, mesh)


def lowered(model, mesh):
    """Gives the texts of a sampler's programs."""
    options = DrawingOptions(8, (1,), 0.0, None, 1.0)
    with mesh:
        sampler = Sampler(model, programs.PlaceholderTokenizer(), 16, mesh)
        prefill = sampler.lower_prefill(2, 1, 8, 16, options)
        return prefill.as_text(), sampler.lower_decode(sampler.abstract_state(prefill), options).as_text()


@pytest.mark.parametrize(
    ("lora", "dtype", "on_cpu", "merges"),
    [(LORA, "float32", True, True), (LORA, "bfloat16", True, False), (None, "float32", True, False)]
    + [({**LORA, "base_weights": kind}, "float32", True, False) for kind in ("int8", "nf4")]
    + [(LORA, "float32", False, False)],  # a TPU multiplies in bfloat16
)
def test_adapters_are_merged_where_nothing_is_lost(lora, dtype, on_cpu, merges):
    assert can_merge(lora, jnp.dtype(dtype), on_cpu) is merges


def base_bytes(model):
    """Counts the bytes of all arrays except adapters; two 4-bit numbers share a byte."""
    _, _, base = nnx.split(model, nnx.LoRAParam, ...)
    return sum(
        leaf.size * jax.numpy.iinfo(leaf.dtype).bits / 8 if "int" in str(leaf.dtype) else leaf.nbytes
        for leaf in jax.tree.leaves(base)
    )


# `closeness`: the largest change of a logit, relative to the largest logit. Errors of random models as narrow as 64 do
# not cancel as they do in a width of 2,304.
@pytest.mark.parametrize("member", ONE_FAMILY_QUICK, indirect=True)
@pytest.mark.parametrize(("kind", "closeness", "smaller"), [("int8", 0.08, 3.2), ("nf4", 0.7, 4.2)])
def test_quantised_base_weights_are_smaller_and_compute_nearly_the_same(member, mesh, kind, closeness, smaller):
    modules, model, before = member
    adapted = with_lora(model, {**LORA, "target_modules": modules, "base_weights": kind}, seed=3, mesh=mesh)
    stored = {str(leaf[...].dtype) for path, leaf in nnx.to_flat_state(nnx.state(adapted)) if "qvalue" in path}
    assert stored == {"int8" if kind == "int8" else "uint4"}
    assert base_bytes(adapted) * smaller < base_bytes(model)
    quantised = logits(adapted)
    assert 0 < np.abs(quantised - before).max() < closeness * np.abs(before).max()
    # The reference of a quantised policy has the same weights without adapters, whatever the policy has learned.
    reference = with_zero_adapters(adapted)
    nnx.update(adapted, jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(adapted, nnx.LoRAParam)))
    np.testing.assert_array_equal(logits(reference), quantised)
    assert not np.array_equal(logits(adapted), quantised)


def test_a_mesh_beyond_the_machine_is_refused_by_name():
    with pytest.raises(PipelineError, match=r"mesh: fsdp 64 × tp 4 needs 256 devices"):
        make_mesh(64, 4)
