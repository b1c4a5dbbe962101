"""Qwen2.5: all that is known about it without JAX. `models/qwen2.py` computes it."""

from collections.abc import Iterator

from gsm8k_grpo.models.family import ByteLevelLayout, Family, Licence, Sizes, Template
from gsm8k_grpo.models.tensor_entry import TensorEntry, attention_output, feed_forward, unchanged

TEMPLATE = Template(
    name="qwen",
    text="{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
    system="<|im_start|>system\n{system}<|im_end|>\n",
    # Qwen2.5's own template inserts this text where there is no system message.
    no_system="<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n",
    strips=False,
    bos=None,
    pad="<|endoftext|>",
    eos="<|im_end|>",
    # The second is also the padding token, which is never drawn.
    stops=("<|im_end|>", "<|endoftext|>"),
    needed=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
)
APACHE = Licence(
    "apache-2.0",
    "the Apache License 2.0",
    "https://www.apache.org/licenses/LICENSE-2.0",
    "The base model is licensed under the Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0",
)


def _config_values(sizes: Sizes) -> dict:
    values = {
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "use_sliding_window": False,
    }
    if sizes["head_dim"] * sizes["num_heads"] != sizes["embed_dim"]:  # else derived, as in the published files
        values["head_dim"] = sizes["head_dim"]
    return values


def _layer_tensors(sizes: Sizes) -> Iterator[TensorEntry]:
    head_dim = sizes["head_dim"]
    for name in "qkv":
        yield TensorEntry(
            ("attn", f"{name}_proj", "w"),
            (f"self_attn.{name}_proj.weight",),
            lambda tensors: tensors[0].T.reshape(tensors[0].shape[1], -1, head_dim),  # (N·H, D) as (D, N, H)
            lambda array: [array.reshape(array.shape[0], -1).T],
        )
        yield unchanged(("attn", f"{name}_bias"), f"self_attn.{name}_proj.bias")
    yield attention_output(("attn", "o_proj", "w"), sizes)
    yield from feed_forward()
    yield unchanged(("input_layernorm", "w"), "input_layernorm.weight")
    yield unchanged(("post_attention_layernorm", "w"), "post_attention_layernorm.weight")


def _licence(architecture: Sizes | str, handle: str) -> Licence | None:
    """Sizes of Qwen2.5 have different licences, and derived models may have others: we know the authors' preset."""
    return APACHE if architecture == "qwen2.5_0.5b" and handle.startswith("Qwen/") else None


QWEN2 = Family(
    name="qwen2",
    title="Qwen2.5",
    template=TEMPLATE,
    system_role=True,
    lora_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    windowed=False,
    presets={
        # https://arxiv.org/abs/2412.15115; config.json of Qwen/Qwen2.5-0.5B-Instruct.
        "qwen2.5_0.5b": {
            **{"family": "qwen2", "num_layers": 24, "embed_dim": 896, "hidden_dim": 4864, "num_heads": 14},
            **{"num_kv_heads": 2, "head_dim": 64, "vocabulary_size": 151_936, "sliding_window_tokens": None},
        },
    },
    model_types=("qwen2",),
    config_class="Qwen2Config",
    model_class="Qwen2ForCausalLM",
    config_values=_config_values,
    eager_attention=False,
    layer_tensors=_layer_tensors,
    norm_weight="w",
    tokenizer=ByteLevelLayout(
        # The published tokenizer.json splits a text so before it merges bytes: each digit is alone.
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ),
    licence=_licence,
)
