"""Tunix models: architecture from settings, random initialisation, storage, LoRA, mesh."""

import dataclasses
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import qwix
from flax import nnx, traverse_util
from jax.sharding import Mesh
from qwix._src.utils import flax_util
from tunix.models.gemma import model as gemma2_lib
from tunix.models.gemma3 import model as gemma3_lib
from tunix.models.qwen2 import model as qwen2_lib

from gsm8k_grpo import families
from gsm8k_grpo.errors import PipelineError
from gsm8k_grpo.gemma import Gemma2, Gemma3
from gsm8k_grpo.qwen2 import Qwen2

CLASSES = {
    gemma2_lib.ModelConfig: Gemma2,
    gemma3_lib.ModelConfig: Gemma3,
    qwen2_lib.ModelConfig: Qwen2,
}


def config(architecture: Mapping | str) -> object:
    """The Tunix configuration of an architecture, to compute in float32 unless `load` is told otherwise.

    Args:
      architecture: a preset's name, or the sizes of a small model (`model.architecture` in `config.yaml`).
    """
    sizes = families.sizes(architecture)
    common = {
        "num_layers": sizes["num_layers"],
        "embed_dim": sizes["embed_dim"],
        "hidden_dim": sizes["hidden_dim"],
        "num_heads": sizes["num_heads"],
        "head_dim": sizes["head_dim"],
        "num_kv_heads": sizes["num_kv_heads"],
    }
    if sizes["family"] == "gemma2":
        local, whole = gemma2_lib.AttentionType.LOCAL_SLIDING, gemma2_lib.AttentionType.GLOBAL
        return gemma2_lib.ModelConfig(
            **common,
            num_embed=sizes["vocabulary_size"],
            sliding_window_size=sizes["sliding_window_tokens"],
            attention_types=((local, whole) * sizes["num_layers"])[: sizes["num_layers"]],
            # What makes it Gemma 2: soft caps, and norms after attention and feed-forward too.
            final_logit_softcap=30.0,
            attn_logits_soft_cap=50.0,
            use_post_attn_norm=True,
            use_post_ffw_norm=True,
        )
    if sizes["family"] == "gemma3":  # five local layers to a global one, by Tunix's class
        return gemma3_lib.ModelConfig(
            **common,
            num_embed=sizes["vocabulary_size"],
            sliding_window_size=sizes["sliding_window_tokens"],
            local_base_frequency=10_000,
            global_base_frequency=1_000_000,
            param_dtype=jnp.float32,
        )
    return qwen2_lib.ModelConfig(
        **common,
        vocab_size=sizes["vocabulary_size"],
        norm_eps=1e-6,
        rope_theta=1_000_000,
        use_tied_embedding=True,
    )


def vocabulary_size(model_config: object) -> int:
    """Rows of the embedding, which Tunix's configurations name differently."""
    return model_config.vocab_size if isinstance(model_config, qwen2_lib.ModelConfig) else model_config.num_embed


def build(model_config: object) -> nnx.Module:
    """A model of the configuration's family, with Tunix's own initial weights."""
    return CLASSES[type(model_config)](model_config, rngs=nnx.Rngs(0))


def initialise(model_config: object, seed: int) -> nnx.Module:
    """A randomly initialised model, float32.

    Tunix leaves the feed-forward kernels at zero (its models are loaded, not trained from scratch), where they would
    get no gradient: every matrix is drawn here, normal with standard deviation 1/√fan-in (LeCun). Of Qwen2.5
    with 0.02, its published `initializer_range`: pretrained alike, a miniature that began with 1/√fan-in answered 45 %
    of 300 rows right (last number, greedy), this one 63 %. Presumably because Qwen2.5 neither scales its embedding up
    nor has norms after its branches, as Gemma does.
    """
    model = build(model_config)
    state = nnx.state(model)
    key = jax.random.key(seed)
    for index, (path, variable) in enumerate(nnx.to_flat_state(state)):
        name, shape = "/".join(map(str, path)), variable.shape
        if len(shape) >= 2:
            # The embedding is tied with the output: small logits at first.
            narrow = "input_embedding" in name or isinstance(model_config, qwen2_lib.ModelConfig)
            deviation = 0.02 if narrow else _fan_in(name, shape) ** -0.5
            variable[...] = deviation * jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32)
        elif "post_" in name and name.endswith("scale"):
            # Gemma stores scale − 1. At 0.4 the normed branches do not drown the token in the residual stream, and a
            # small model learns visibly sooner.
            variable[...] = jnp.full(shape, -0.6, jnp.float32)
    nnx.update(model, state)
    return model


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    """How many inputs each output of a matrix sums over."""
    if "attn_vec" in name:
        return shape[0] * shape[1]  # (N, H, D) contracts N·H
    return shape[-2]  # q (N, D, H) and kv (2, K, D, H); kernels (in, out)


def structure(model_config: object, dtype: jnp.dtype = jnp.float32) -> nnx.Module:
    """The model's structure without weights, to compute in `dtype` (Gemma computes in its weights' own)."""
    if isinstance(model_config, qwen2_lib.ModelConfig):
        model_config = dataclasses.replace(model_config, dtype=dtype)
    return nnx.eval_shape(lambda: build(model_config))


def make_mesh(fsdp: int, tp: int) -> Mesh:
    """A mesh over the first fsdp × tp devices, axes `fsdp` (data and weights) and `tp` (heads and features).

    Raises:
      PipelineError: fewer devices than that.
    """
    devices = jax.devices()
    if len(devices) < fsdp * tp:
        raise PipelineError(
            f"mesh: fsdp {fsdp} × tp {tp} needs {fsdp * tp} devices, this machine has {len(devices)} "
            f"({devices[0].platform})"
        )
    return Mesh(np.array(devices[: fsdp * tp]).reshape(fsdp, tp), ("fsdp", "tp"))


def count_parameters(model: nnx.Module, kind: type = nnx.Param) -> int:
    """The number of scalars in a model's variables of one kind."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, kind)))


def weights(model: nnx.Module) -> dict:
    """All weights as nested dicts of arrays, by Tunix's names: what `save` and `weights_hash` take."""
    return nnx.to_pure_dict(nnx.state(model))


def leaves(weights: Mapping) -> dict[tuple, object]:
    """The arrays of `weights`, by path."""
    return traverse_util.flatten_dict(weights)


def weights_hash(weights: Mapping) -> str:
    """One hash over all weights: names, dtypes, shapes and bytes. (Files of equal weights differ: Orbax dates them.)"""
    return arrays_hash(leaves(weights))


def arrays_hash(arrays: Mapping[tuple, object]) -> str:
    """The same of arrays by path, such as `Stored`; they are read one at a time."""
    digest = hashlib.sha256()
    for path in sorted(arrays, key=str):
        array = np.asarray(arrays[path])
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def save(weights: Mapping, folder: Path) -> None:
    """Writes all weights as an Orbax checkpoint into `folder`, which must not exist yet."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), weights)


def abstract(model_config: object, mesh: Mesh, dtype: jnp.dtype) -> nnx.Module:
    """A model without weights: shapes, precision and shardings on the mesh, as `load` fills them."""
    model = structure(model_config, dtype)
    state = nnx.state(model)
    nnx.update(model, sharded(state, mesh, dtype))
    return model


def sharded(state: nnx.State, mesh: Mesh, dtype: jnp.dtype | None = None) -> nnx.State:
    """Abstract arrays with the shardings that their variables name, all in `dtype` where one is given."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding),
        state,
        nnx.get_named_sharding(state, mesh),
    )


def is_abstract(state: nnx.State) -> bool:
    """Whether these are shapes without values."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))


class Stored(Mapping):
    """The arrays in an Orbax checkpoint by path (layers by number), each read from the disk when it is asked for."""

    def __init__(self, folder: Path):
        """
        Raises:
          PipelineError: there is no such checkpoint.
        """
        self._folder, self._checkpointer = folder.absolute(), ocp.PyTreeCheckpointer()
        logging.disable(logging.WARNING)  # Orbax misses a file of its own that Tunix's checkpoints do without
        try:
            flat = traverse_util.flatten_dict(self._checkpointer.metadata(self._folder).item_metadata.tree)
        except (OSError, ValueError, AttributeError):
            raise PipelineError(f"{folder}: no weights that can be read; make them again") from None
        finally:
            logging.disable(logging.NOTSET)
        self._stored = {
            # Training stores variables, whose arrays have a name of their own.
            tuple(int(key) if key.isdigit() else key for key in path[: -1 if path[-1] == "value" else None]): path
            for path in flat
        }
        self._metadata = flat

    def __iter__(self) -> Iterator[tuple]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, path: tuple) -> np.ndarray:
        key = self._stored[path]

        def alone(value: object) -> dict:
            return traverse_util.unflatten_dict({key: value})

        try:
            restored = self._checkpointer.restore(
                self._folder,
                args=ocp.args.PyTreeRestore(
                    item=alone(self._metadata[key]),
                    restore_args=alone(ocp.RestoreArgs(restore_type=np.ndarray)),
                    partial_restore=True,
                ),
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            raise PipelineError(f"{self._folder}: cannot be read ({reason}); make it again") from None
        return traverse_util.flatten_dict(restored)[key]

    def shape(self, path: tuple) -> tuple[int, ...]:
        """Of an array, which is not read."""
        return tuple(self._metadata[self._stored[path]].shape)


def load(folder: Path, model_config: object, mesh: Mesh, dtype: jnp.dtype) -> nnx.Module:
    """Loads weights saved by `save`, each array straight into its shards on the mesh, to compute in `dtype`.

    Raises:
      PipelineError: no weights there, or weights of another architecture.
    """
    if not folder.is_dir():
        raise PipelineError(f"{folder}: no weights; make them again with --forcerun base_model")
    graph, state = nnx.split(abstract(model_config, mesh, dtype))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(folder.absolute(), nnx.to_pure_dict(state))
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise PipelineError(
            f"{folder}: these weights cannot be restored as model.architecture says ({str(error).splitlines()[0]}); "
            "make them again with --forcerun base_model"
        ) from None
    nnx.replace_by_pure_dict(state, restored)
    return nnx.merge(graph, state)


class LoraProvider(qwix.LoraProvider):
    """Qwix's LoRA for training: adapters in float32 beside a base of any precision, and dropout only in the loss.

    Qwix makes the adapters in the base's precision (steps of 3e-6 vanish in bfloat16) and drops out in every forward
    pass, sampling included. Here dropout needs a module that has `qwix_rngs`, and activations keep their precision.
    """

    def _get_current_rule_and_op_id(self, *arguments: object, **options: object) -> tuple:
        rule, operation = super()._get_current_rule_and_op_id(*arguments, **options)
        if getattr(rule, "dropout", 0) and not isinstance(flax_util.get_current_module().qwix_rngs, nnx.Rngs):
            rule = dataclasses.replace(rule, dropout=0.0)
        return rule, operation

    def dot_general(self, lhs: jax.Array, *arguments: object, **options: object) -> jax.Array:
        """The product with the base weight plus the adapter's, in the precision of `lhs`."""
        return _in_precision_of(lhs, super().dot_general(lhs, *arguments, **options))

    def einsum(self, equation: str, *operands: jax.Array, **options: object) -> jax.Array:
        """As `dot_general`."""
        return _in_precision_of(operands[0], super().einsum(equation, *operands, **options))


def _in_precision_of(lhs: jax.Array, product: jax.Array) -> jax.Array:
    """A product as its left side's type, unless that holds integers (Qwen multiplies positions with frequencies)."""
    return product.astype(lhs.dtype) if jnp.issubdtype(lhs.dtype, jnp.floating) else product


def with_lora(model: nnx.Module, lora: Mapping, seed: int, mesh: Mesh) -> nnx.Module:
    """The model with fresh LoRA adapters (arXiv 2106.09685): A drawn from the seed, B zero: it computes the same yet.

    Args:
      model: a loaded base model; its weights are shared, not copied, but for those that are quantised. Or one of
        `abstract`: then the adapters are abstract too.
      lora: `rank`, `alpha`, `dropout`, `target_modules` (names of Tunix modules) and `base_weights`: null, or the type
        that the weights of these modules are quantised to (QLoRA, arXiv 2305.14314).
      seed: of the draw of A.
      mesh: where the adapters are placed.
    """
    sizes, four_bits = model.config, lora["base_weights"] == "nf4"
    provider = LoraProvider(
        module_path="|".join(f".*{name}" for name in lora["target_modules"]),
        rank=lora["rank"],
        alpha=float(lora["alpha"]),
        dropout=float(lora["dropout"]),
        weight_qtype=lora["base_weights"],
        # Weights that share one scale: QLoRA's blocks of 64 (less where widths are no multiple), int8 whole channels.
        tile_size=math.gcd(64, sizes.head_dim, sizes.embed_dim, sizes.hidden_dim) if four_bits else None,
    )
    base_graph, base_state = nnx.split(model)
    graph = None

    @jax.jit  # not eagerly: that takes longer, and cannot take apart arrays that lie on several hosts
    def adapt(state: nnx.State) -> tuple[nnx.State, nnx.State | None]:
        nonlocal graph
        module = nnx.merge(base_graph, state)
        adapted = qwix.apply_lora_to_model(module, provider, **module.get_model_input(), rngs=nnx.Rngs(seed))
        graph, adapters, base = nnx.split(adapted, nnx.LoRAParam, ...)
        adapters = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), adapters)
        return adapters, base if lora["base_weights"] else None

    with mesh:
        if is_abstract(base_state):
            adapters, quantised = jax.eval_shape(adapt, base_state)
            adapters = sharded(adapters, mesh)
            if quantised is not None:
                places = adapt.lower(base_state).compile().output_shardings[1]
                quantised = jax.tree.map(_placed, quantised, places)
        else:
            adapters, quantised = adapt(base_state)
            adapters = jax.device_put(adapters, nnx.get_named_sharding(adapters, mesh))
    return nnx.merge(graph, adapters, base_state if quantised is None else quantised)


def merges(lora: Mapping | None, dtype: jnp.dtype, on_cpu: bool) -> bool:
    """Whether `merged` changes nothing but the rounding of float32, where that is what a product computes in: on a CPU.

    A TPU multiplies float32 in bfloat16 unless told otherwise, a GPU in TF32: there the sum of a weight and a small
    update is rounded to the weight alone, while apart, both count.
    """
    return bool(lora) and not lora["base_weights"] and dtype == jnp.float32 and on_cpu


def merged(adapted: nnx.Module, lora: Mapping) -> nnx.Module:
    """A model of the base's own structure with W + alpha / rank · A·B (arXiv 2106.09685, eq. 3) for each adapted W.

    Args:
      adapted: of `with_lora`, concrete or traced.
      lora: as `with_lora` got it, where `merges`.
    """
    graph, state = nnx.split(structure(adapted.config, adapted.embedder.input_embedding.dtype))
    weights, adapters = (
        traverse_util.flatten_dict(nnx.to_pure_dict(each))
        for each in nnx.state(adapted, nnx.filterlib.Not(nnx.LoRAParam), nnx.LoRAParam)
    )
    for path, module in nnx.iter_modules(adapted):
        for name in ("w", "kernel"):
            if (*path, f"{name}_lora_a") in adapters:
                a, b = (adapters.pop((*path, f"{name}_lora_{which}")) for which in "ab")
                # Qwix's A has the weight's axes of inputs, then the rank; its B has the rank, then the others.
                inputs, axis = range(a.ndim - 1), _input_axis(module)
                update = jnp.moveaxis(jnp.tensordot(a, b, 1), inputs, range(axis, axis + len(inputs)))
                weights[*path, name] += lora["alpha"] / lora["rank"] * update
    if adapters:
        raise ValueError(f"adapters of no weight that is known: {sorted(map(str, adapters))}")
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(weights))
    return nnx.merge(graph, state)


def _input_axis(module: nnx.Module) -> int:
    """The first axis that a product with the module's weight sums over."""
    if not hasattr(module, "einsum_str"):
        return 0  # of nnx.Linear
    weight, result = module.einsum_str.split(",")[1].split("->")
    return next(axis for axis, letter in enumerate(weight) if letter not in result)


def trained(lora: Mapping | None) -> type:
    """The kind of variables that training changes: adapters, or all weights where there are none."""
    return nnx.LoRAParam if lora else nnx.Param


def policy(model: nnx.Module, lora: Mapping | None, seed: int, mesh: Mesh) -> nnx.Module:
    """What training starts from: `with_lora`, or without LoRA a second model on the same weights, all to be trained."""
    return with_lora(model, lora, seed, mesh) if lora else nnx.merge(*nnx.split(model))


def rematerialise(model: nnx.Module) -> None:
    """Has the backward pass compute each layer's activations again, from the layer's input alone, which is kept.

    Less memory, a third more compute (arXiv 1604.06174); the numbers are the same but for rounding.
    """
    for layer in model.layers:
        layer.config = dataclasses.replace(layer.config, remat_config=type(layer.config.remat_config).DECODER)


def _placed(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def without_adaptation(adapted: nnx.Module) -> nnx.Module:
    """A second model on the same, possibly quantised, base weights: its adapters are zero."""
    graph, adapters, base = nnx.split(adapted, nnx.LoRAParam, ...)
    return nnx.merge(graph, adapters if is_abstract(adapters) else jax.tree.map(jnp.zeros_like, adapters), base)
