"""Gemma 2 and 3: all that is known about them without JAX. `models/gemma.py` computes them."""

import functools
from collections.abc import Iterator

import numpy as np

from gsm8k_grpo.models.family import Family, Licence, SentencePieceLayout, Sizes, Template
from gsm8k_grpo.models.tensor_entry import Arrays, TensorEntry, attention_output, feed_forward, unchanged

TEMPLATE = Template(
    name="gemma",
    # Gemma has no system role: the system text goes into the first user turn, as in Gemma 3's own template.
    text="<start_of_turn>user\n{system}{question}<end_of_turn>\n<start_of_turn>model\n",
    system="{system}\n\n",
    no_system="",
    strips=True,
    bos="<bos>",
    pad="<pad>",
    eos="<eos>",
    stops=("<end_of_turn>", "<eos>"),
    needed=("<start_of_turn>", "<end_of_turn>"),
)
MODULES = ("q_einsum", "kv_einsum", "attn_vec_einsum", "gate_proj", "up_proj", "down_proj")
TERMS = Licence(
    "gemma",
    "the Gemma Terms of Use",
    "https://ai.google.dev/gemma/terms",
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
)
UNUSED = tuple(f"<unused{index}>" for index in range(99))
TURNS = ("<start_of_turn>", "<end_of_turn>", "\n")


def _default_rope(base: float) -> dict:
    return {"rope_type": "default", "rope_theta": base}


def _config_values(sizes: Sizes) -> dict:
    return {
        "head_dim": sizes["head_dim"],
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": sizes["sliding_window_tokens"],
        "query_pre_attn_scalar": sizes["head_dim"],
        "attention_bias": False,
    }


def _gemma2_config_values(sizes: Sizes) -> dict:
    caps = {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
    return _config_values(sizes) | caps | {"rope_parameters": _default_rope(10_000.0)}


def _gemma3_config_values(sizes: Sizes) -> dict:
    ropes = {"sliding_attention": _default_rope(10_000.0), "full_attention": _default_rope(1_000_000.0)}
    return _config_values(sizes) | {"rope_parameters": ropes}


def _layer_tensors(sizes: Sizes, post_attention_norm: str) -> Iterator[TensorEntry]:
    """The tensors of one layer that both have. Norms hold scale − 1 on both sides."""
    heads, head_dim = sizes["num_heads"], sizes["head_dim"]

    def stack(tensors: Arrays) -> np.ndarray:  # keys, values (K·H, D) as (2, K, D, H)
        return np.stack([tensor.reshape(-1, head_dim, tensor.shape[1]).transpose(0, 2, 1) for tensor in tensors])

    def unstack(array: np.ndarray) -> list[np.ndarray]:
        return [part.transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in array]

    yield TensorEntry(
        ("attn", "q_einsum", "w"),
        ("self_attn.q_proj.weight",),
        lambda tensors: tensors[0].reshape(heads, head_dim, -1).transpose(0, 2, 1),  # (N·H, D) as (N, D, H)
        lambda array: [array.transpose(0, 2, 1).reshape(heads * head_dim, -1)],
        input_axis=1,
    )
    keys_and_values = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
    yield TensorEntry(("attn", "kv_einsum", "w"), keys_and_values, stack, unstack, input_axis=2)
    yield attention_output(("attn", "attn_vec_einsum", "w"), sizes)
    yield from feed_forward()
    yield unchanged(("pre_attention_norm", "scale"), "input_layernorm.weight")
    yield unchanged((post_attention_norm, "scale"), "post_attention_layernorm.weight")
    yield unchanged(("pre_ffw_norm", "scale"), "pre_feedforward_layernorm.weight")
    yield unchanged(("post_ffw_norm", "scale"), "post_feedforward_layernorm.weight")


def _gemma3_layer_tensors(sizes: Sizes) -> Iterator[TensorEntry]:
    yield from _layer_tensors(sizes, post_attention_norm="post_attention_norm")
    yield unchanged(("attn", "_query_norm", "scale"), "self_attn.q_norm.weight")
    yield unchanged(("attn", "_key_norm", "scale"), "self_attn.k_norm.weight")


def _gemma2_flax_tensors(sizes: Sizes) -> Iterator[tuple]:
    """See `Family.flax_tensors`."""

    def whole(array: np.ndarray) -> np.ndarray:
        return array

    pieces = sizes["vocabulary_size"]  # Kaggle's embedding has further rows, which belong to no piece
    yield ("embedder", "input_embedding"), "transformer/embedder/input_embedding", lambda array: array[:pieces]
    for index in range(sizes["num_layers"]):
        layer, flax = ("layers", index), f"transformer/layer_{index}"
        for name in ("q_einsum", "kv_einsum", "attn_vec_einsum"):
            yield (*layer, "attn", name, "w"), f"{flax}/attn/{name}/w", whole
        yield (*layer, "mlp", "gate_proj", "kernel"), f"{flax}/mlp/gating_einsum/w", lambda array: array[0]
        yield (*layer, "mlp", "up_proj", "kernel"), f"{flax}/mlp/gating_einsum/w", lambda array: array[1]
        yield (*layer, "mlp", "down_proj", "kernel"), f"{flax}/mlp/linear/w", whole
        for name in ("pre_attention_norm", "pre_ffw_norm", "post_ffw_norm"):
            yield (*layer, name, "scale"), f"{flax}/{name}/scale", whole
        yield (*layer, "post_attn_norm", "scale"), f"{flax}/post_attention_norm/scale", whole
    yield ("final_norm", "scale"), "transformer/final_norm/scale", whole


GEMMA2 = Family(
    name="gemma2",
    title="Gemma 2",
    template=TEMPLATE,
    system_role=False,
    lora_modules=MODULES,
    windowed=True,
    presets={
        # https://arxiv.org/abs/2408.00118, table 1. Its tokenizer has 256,000 pieces. Kaggle's embedding has 128 more
        # rows, which belong to no piece; we leave them out, as Hugging Face does.
        "gemma2_2b": {
            **{"family": "gemma2", "num_layers": 26, "embed_dim": 2304, "hidden_dim": 9216, "num_heads": 8},
            **{"num_kv_heads": 4, "head_dim": 256, "vocabulary_size": 256_000, "sliding_window_tokens": 4096},
        },
    },
    model_types=("gemma2",),
    config_class="Gemma2Config",
    model_class="Gemma2ForCausalLM",
    config_values=_gemma2_config_values,
    eager_attention=True,  # PyTorch's own attention leaves out the soft cap of the attention's logits
    layer_tensors=functools.partial(_layer_tensors, post_attention_norm="post_attn_norm"),
    norm_weight="scale",
    flax_tensors=_gemma2_flax_tensors,
    # Ids 4 to 108 as in the published tokenizer: <start_of_turn> is 106.
    tokenizer=SentencePieceLayout(("<mask>", "<2mass>", "[@BOS@]", *UNUSED, *TURNS)),
    licence=lambda architecture, handle: TERMS,
    kaggle_handles=("google/gemma-2/flax/gemma2-", "google/gemma-2-"),
)
GEMMA3 = Family(
    name="gemma3",
    title="Gemma 3",
    template=TEMPLATE,
    system_role=False,
    lora_modules=MODULES,
    windowed=True,
    presets={
        # https://arxiv.org/abs/2503.19786; config.json of google/gemma-3-1b-it.
        "gemma3_1b": {
            **{"family": "gemma3", "num_layers": 26, "embed_dim": 1152, "hidden_dim": 6912, "num_heads": 4},
            **{"num_kv_heads": 1, "head_dim": 256, "vocabulary_size": 262_144, "sliding_window_tokens": 512},
        },
        # config.json of google/gemma-3-270m-it.
        "gemma3_270m": {
            **{"family": "gemma3", "num_layers": 18, "embed_dim": 640, "hidden_dim": 2048, "num_heads": 4},
            **{"num_kv_heads": 1, "head_dim": 256, "vocabulary_size": 262_144, "sliding_window_tokens": 512},
        },
    },
    model_types=("gemma3_text",),
    config_class="Gemma3TextConfig",
    model_class="Gemma3ForCausalLM",
    config_values=_gemma3_config_values,
    eager_attention=False,
    layer_tensors=_gemma3_layer_tensors,
    norm_weight="scale",
    # Ids 4 to 107 as in the published tokenizer: <start_of_turn> is 105.
    tokenizer=SentencePieceLayout(("<mask>", "[multimodal]", *UNUSED, *TURNS)),
    licence=lambda architecture, handle: TERMS,
)
