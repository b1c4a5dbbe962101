"""Hugging Face's format of our architectures: config.json, and the table of tensors in both directions. No JAX here."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gsm8k_grpo import families
from gsm8k_grpo.errors import PipelineError

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of ours and the tensors that it is in Hugging Face's implementation.

    Attributes:
      path: in Tunix's state, such as ("layers", 0, "attn", "q_einsum", "w").
      names: of the tensors in safetensors files.
      to_tunix: the tensors, in the order of `names`, as our array.
      to_hf: the way back. Both only rearrange: every number stays as it is. Works with any number of inputs, too.
      input_axis: of our array, the first axis that a product with it sums over.
    """

    path: tuple[str | int, ...]
    names: tuple[str, ...]
    to_tunix: Callable[[Arrays], np.ndarray]
    to_hf: Callable[[np.ndarray], list[np.ndarray]]
    input_axis: int = 0

    def lora(self, a: np.ndarray, b: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Qwix's LoRA adapters of this array as PEFT has them: (A, B) for each tensor, which B·A changes.

        Qwix's A is the weight's axes of inputs, then the rank; its B is the rank, then the other axes. So B is a weight
        with the rank for its inputs, and goes the weight's own way. Keys and values, one array in Gemma, share one A.

        Returns:
          by the tensor's name: A [rank, inputs], B [outputs, rank].
        """
        rank = b.shape[0]
        inputs = a.reshape(-1, rank).T
        return {
            name: (inputs, outputs)
            for name, outputs in zip(self.names, self.to_hf(np.moveaxis(b, 0, self.input_axis)), strict=True)
        }


def table(architecture: Mapping | str) -> list[Entry]:
    """All weights of an architecture (`model.architecture`), each of ours once.

    The output is tied with the embedding in all families: there is no lm_head. Gemma's norms hold scale − 1 on both
    sides.
    """
    sizes = families.sizes(architecture)
    rows = _qwen_layer if sizes["family"] == "qwen2" else _gemma_layer
    norm = "w" if sizes["family"] == "qwen2" else "scale"
    return [
        _same(("embedder", "input_embedding"), "model.embed_tokens.weight"),
        *(
            dataclasses.replace(
                entry,
                path=("layers", index, *entry.path),
                names=tuple(f"model.layers.{index}.{name}" for name in entry.names),
            )
            for index in range(sizes["num_layers"])
            for entry in rows(sizes)
        ),
        _same(("final_norm", norm), "model.norm.weight"),
    ]


def _gemma_layer(sizes: Mapping) -> Iterator[Entry]:
    """The tensors of one layer of Gemma 2 or 3."""
    heads, head_dim = sizes["num_heads"], sizes["head_dim"]

    def stacked(tensors: Arrays) -> np.ndarray:  # keys, values (K·H, D) as (2, K, D, H)
        return np.stack([tensor.reshape(-1, head_dim, tensor.shape[1]).transpose(0, 2, 1) for tensor in tensors])

    def apart(array: np.ndarray) -> list[np.ndarray]:
        return [part.transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in array]

    yield Entry(
        ("attn", "q_einsum", "w"),
        ("self_attn.q_proj.weight",),
        lambda tensors: tensors[0].reshape(heads, head_dim, -1).transpose(0, 2, 1),  # (N·H, D) as (N, D, H)
        lambda array: [array.transpose(0, 2, 1).reshape(heads * head_dim, -1)],
        input_axis=1,
    )
    keys_and_values = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
    yield Entry(("attn", "kv_einsum", "w"), keys_and_values, stacked, apart, input_axis=2)
    yield _output(("attn", "attn_vec_einsum", "w"), sizes)
    yield from _feed_forward()
    third = sizes["family"] == "gemma3"
    yield _same(("pre_attention_norm", "scale"), "input_layernorm.weight")
    yield _same(("post_attention_norm" if third else "post_attn_norm", "scale"), "post_attention_layernorm.weight")
    yield _same(("pre_ffw_norm", "scale"), "pre_feedforward_layernorm.weight")
    yield _same(("post_ffw_norm", "scale"), "post_feedforward_layernorm.weight")
    if third:
        yield _same(("attn", "_query_norm", "scale"), "self_attn.q_norm.weight")
        yield _same(("attn", "_key_norm", "scale"), "self_attn.k_norm.weight")


def _qwen_layer(sizes: Mapping) -> Iterator[Entry]:
    """The tensors of one layer of Qwen2.5."""
    head_dim = sizes["head_dim"]
    for name in "qkv":
        yield Entry(
            ("attn", f"{name}_proj", "w"),
            (f"self_attn.{name}_proj.weight",),
            lambda tensors: tensors[0].T.reshape(tensors[0].shape[1], -1, head_dim),  # (N·H, D) as (D, N, H)
            lambda array: [array.reshape(array.shape[0], -1).T],
        )
        yield _same(("attn", f"{name}_bias"), f"self_attn.{name}_proj.bias")
    yield _output(("attn", "o_proj", "w"), sizes)
    yield from _feed_forward()
    yield _same(("input_layernorm", "w"), "input_layernorm.weight")
    yield _same(("post_attention_layernorm", "w"), "post_attention_layernorm.weight")


def _output(path: tuple, sizes: Mapping) -> Entry:
    """The projection of attention's output: (D, N·H) as (N, H, D)."""
    heads, head_dim = sizes["num_heads"], sizes["head_dim"]
    return Entry(
        path,
        ("self_attn.o_proj.weight",),
        lambda tensors: tensors[0].T.reshape(heads, head_dim, -1),
        lambda array: [array.reshape(-1, array.shape[-1]).T],
    )


def _feed_forward() -> Iterator[Entry]:
    for name in ("gate_proj", "up_proj", "down_proj"):
        yield Entry(
            ("mlp", name, "kernel"), (f"mlp.{name}.weight",), lambda tensors: tensors[0].T, lambda array: [array.T]
        )


def _same(path: tuple, name: str) -> Entry:
    return Entry(path, (name,), lambda tensors: tensors[0], lambda array: [array])


def config(architecture: Mapping | str) -> Any:
    """The `transformers` configuration of an architecture: what its config.json must say, or is to say."""
    transformers, sizes = _transformers(), families.sizes(architecture)
    common = {
        "vocab_size": sizes["vocabulary_size"],
        "hidden_size": sizes["embed_dim"],
        "intermediate_size": sizes["hidden_dim"],
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_heads"],
        "num_key_value_heads": sizes["num_kv_heads"],
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }
    if sizes["family"] == "qwen2":
        rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
        if sizes["head_dim"] * sizes["num_heads"] != sizes["embed_dim"]:  # else it is left to be derived, as published
            common["head_dim"] = sizes["head_dim"]
        common["architectures"] = ["Qwen2ForCausalLM"]
        return transformers.Qwen2Config(**common, hidden_act="silu", rope_parameters=rope, use_sliding_window=False)
    gemma = {
        **common,
        "head_dim": sizes["head_dim"],
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": sizes["sliding_window_tokens"],
        "query_pre_attn_scalar": sizes["head_dim"],
        "attention_bias": False,
    }
    if sizes["family"] == "gemma2":
        rope = {"rope_type": "default", "rope_theta": 10_000.0}
        caps = {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
        return transformers.Gemma2Config(**gemma, **caps, architectures=["Gemma2ForCausalLM"], rope_parameters=rope)
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
    }
    return transformers.Gemma3TextConfig(**gemma, architectures=["Gemma3ForCausalLM"], rope_parameters=ropes)


def _transformers() -> Any:
    """The library, without its remark that there is no PyTorch."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


# Of config.json: what decides what is computed, of each family those that its configuration has.
_COMPARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "tie_word_embeddings",
    "hidden_act",
    "hidden_activation",
    "attention_bias",
    "query_pre_attn_scalar",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "layer_types",
    "sliding_window",
    "rope_parameters",
    "use_bidirectional_attention",
)


def check_config(folder: Path, architecture: Mapping | str) -> None:
    """Makes sure that a folder's config.json is that of the architecture.

    Raises:
      PipelineError: naming the first key that differs, what it is and what it should be.
    """
    from gsm8k_grpo import files

    path, family = folder / "config.json", families.of(architecture)
    published = files.read_json_object(path)
    chosen = architecture if isinstance(architecture, str) else f"{family.name} of these sizes"
    kind = published.get("model_type")
    if kind not in family.model_types:
        raise PipelineError(
            f"{path}: model_type is {kind!r}, model.architecture {chosen} is {' or '.join(family.model_types)}; choose "
            "the architecture that the model has"
        )
    if published.get("quantization_config"):
        raise PipelineError(
            f"{path}: its weights are quantised (quantization_config): take the model in float32, bfloat16 or float16; "
            "training.lora.base_weights quantises it here"
        )
    wanted = config(architecture)
    try:
        found = _transformers().AutoConfig.for_model(**published)
    except Exception as error:  # transformers checks types and values, with exceptions of several kinds
        raise PipelineError(f"{path}: not a configuration of {kind} ({' '.join(str(error).split())[:200]})") from None
    for key in (key for key in _COMPARED if key == "head_dim" or hasattr(wanted, key)):
        ours, theirs = (_value(each, key) for each in (wanted, found))
        if ours != theirs:
            raise PipelineError(
                f"{path}: {key} is {theirs!r}, model.architecture {chosen} has {ours!r}; choose the architecture that "
                "the model has"
            )


def _value(found: Any, key: str) -> Any:
    """A key of a configuration; Qwen's head_dim may be left to be derived."""
    value = getattr(found, key, None)
    if key == "use_bidirectional_attention":  # null is no
        return bool(value)
    return found.hidden_size // found.num_attention_heads if key == "head_dim" and value is None else value
