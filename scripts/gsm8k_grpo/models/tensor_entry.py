"""One array of a Tunix model and the tensors that hold it in Hugging Face's format. No JAX here."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """One array of ours and its tensors in Hugging Face's implementation.

    Attributes:
      path: in Tunix's state, such as ("layers", 0, "attn", "q_einsum", "w").
      names: of the tensors in safetensors files.
      to_tunix: turns the tensors, in the order of `names`, into our array.
      to_hf: turns our array, with any number of inputs, into the tensors. Both directions only rearrange numbers.
      input_axis: the first axis of our array that a product with it sums over.
    """

    path: tuple[str | int, ...]
    names: tuple[str, ...]
    to_tunix: Callable[[Arrays], np.ndarray]
    to_hf: Callable[[np.ndarray], list[np.ndarray]]
    input_axis: int = 0

    def in_layer(self, index: int) -> "TensorEntry":
        """The same entry of a layer, with the layer's full path and names."""
        names = tuple(f"model.layers.{index}.{name}" for name in self.names)
        return dataclasses.replace(self, path=("layers", index, *self.path), names=names)

    def lora(self, a: np.ndarray, b: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Converts Qwix's LoRA adapters of this array to PEFT's, whose product B·A changes each tensor.

        Qwix's A has the weight's input axes, then the rank; its B has the rank, then the other axes. So B is laid out
        like a weight whose input is the rank, and `to_hf` converts it. Gemma's keys and values, one array, share A.

        Returns:
          by tensor name: A [rank, inputs], B [outputs, rank].
        """
        rank = b.shape[0]
        inputs = a.reshape(-1, rank).T
        return {
            name: (inputs, outputs)
            for name, outputs in zip(self.names, self.to_hf(np.moveaxis(b, 0, self.input_axis)), strict=True)
        }


def unchanged(path: tuple, name: str) -> TensorEntry:
    """An array that both sides store alike."""
    return TensorEntry(path, (name,), lambda tensors: tensors[0], lambda array: [array])


def attention_output(path: tuple, sizes: Mapping) -> TensorEntry:
    """The projection of attention's output: (D, N·H) there, (N, H, D) here."""
    heads, head_dim = sizes["num_heads"], sizes["head_dim"]
    return TensorEntry(
        path,
        ("self_attn.o_proj.weight",),
        lambda tensors: tensors[0].T.reshape(heads, head_dim, -1),
        lambda array: [array.reshape(-1, array.shape[-1]).T],
    )


def feed_forward() -> Iterator[TensorEntry]:
    """The three matrices of a gated MLP, (outputs, inputs) there, (inputs, outputs) here."""
    for name in ("gate_proj", "up_proj", "down_proj"):
        yield TensorEntry(
            ("mlp", name, "kernel"), (f"mlp.{name}.weight",), lambda tensors: tensors[0].T, lambda array: [array.T]
        )
