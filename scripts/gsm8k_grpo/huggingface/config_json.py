"""The config.json of each architecture: what it must say, and what we write."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models import families
from gsm8k_grpo.models.families import family_of


def transformers_config(architecture: Mapping | str) -> Any:
    """The `transformers` configuration of an architecture: what its config.json must say, or is to say."""
    transformers, sizes = _transformers(), families.architecture_sizes(architecture)
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
    from gsm8k_grpo.common import files

    path, family = folder / "config.json", family_of(architecture)
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
    wanted = transformers_config(architecture)
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
