"""Hugging Face's format of our architectures: config.json, and the table of tensors in both directions. No JAX here."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from gsm8k_grpo.models import families

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class TensorEntry:
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


def tensor_table(architecture: Mapping | str) -> list[TensorEntry]:
    """All weights of an architecture (`model.architecture`), each of ours once.

    The output is tied with the embedding in all families: there is no lm_head. Gemma's norms hold scale − 1 on both
    sides.
    """
    sizes = families.architecture_sizes(architecture)
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


def _gemma_layer(sizes: Mapping) -> Iterator[TensorEntry]:
    """The tensors of one layer of Gemma 2 or 3."""
    heads, head_dim = sizes["num_heads"], sizes["head_dim"]

    def stacked(tensors: Arrays) -> np.ndarray:  # keys, values (K·H, D) as (2, K, D, H)
        return np.stack([tensor.reshape(-1, head_dim, tensor.shape[1]).transpose(0, 2, 1) for tensor in tensors])

    def apart(array: np.ndarray) -> list[np.ndarray]:
        return [part.transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in array]

    yield TensorEntry(
        ("attn", "q_einsum", "w"),
        ("self_attn.q_proj.weight",),
        lambda tensors: tensors[0].reshape(heads, head_dim, -1).transpose(0, 2, 1),  # (N·H, D) as (N, D, H)
        lambda array: [array.transpose(0, 2, 1).reshape(heads * head_dim, -1)],
        input_axis=1,
    )
    keys_and_values = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
    yield TensorEntry(("attn", "kv_einsum", "w"), keys_and_values, stacked, apart, input_axis=2)
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


def _qwen_layer(sizes: Mapping) -> Iterator[TensorEntry]:
    """The tensors of one layer of Qwen2.5."""
    head_dim = sizes["head_dim"]
    for name in "qkv":
        yield TensorEntry(
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


def _output(path: tuple, sizes: Mapping) -> TensorEntry:
    """The projection of attention's output: (D, N·H) as (N, H, D)."""
    heads, head_dim = sizes["num_heads"], sizes["head_dim"]
    return TensorEntry(
        path,
        ("self_attn.o_proj.weight",),
        lambda tensors: tensors[0].T.reshape(heads, head_dim, -1),
        lambda array: [array.reshape(-1, array.shape[-1]).T],
    )


def _feed_forward() -> Iterator[TensorEntry]:
    for name in ("gate_proj", "up_proj", "down_proj"):
        yield TensorEntry(
            ("mlp", name, "kernel"), (f"mlp.{name}.weight",), lambda tensors: tensors[0].T, lambda array: [array.T]
        )


def _same(path: tuple, name: str) -> TensorEntry:
    return TensorEntry(path, (name,), lambda tensors: tensors[0], lambda array: [array])
