"""The config.json of an architecture: we compare a published one with it, and write it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models.families import architecture_sizes, family_of


def transformers_config(architecture: Mapping | str) -> Any:
    """Makes the `transformers` configuration of an architecture: what its config.json must say."""
    family, sizes = family_of(architecture), architecture_sizes(architecture)
    return getattr(_transformers(), family.config_class)(
        vocab_size=sizes["vocabulary_size"],
        hidden_size=sizes["embed_dim"],
        intermediate_size=sizes["hidden_dim"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        num_key_value_heads=sizes["num_kv_heads"],
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        architectures=[family.model_class],
        **family.config_values(sizes),
    )


def _transformers() -> Any:
    """Imports the library without its warning that PyTorch is missing."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


# The keys of config.json that decide what a model computes. A family is compared in those that its configuration has.
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
    """Makes sure that a folder's config.json describes the architecture.

    Raises:
      PipelineError: names the first key that differs, its value and the expected value.
    """
    path, family = folder / "config.json", family_of(architecture)
    published = files.read_json_object(path)
    chosen = architecture if isinstance(architecture, str) else f"{family.name} of these sizes"
    kind = published.get("model_type")
    if kind not in family.model_types:
        raise PipelineError(
            f"{path}: model_type is {kind!r}, model.architecture {chosen} is {' or '.join(family.model_types)}; choose "
            "the model's own architecture"
        )
    if published.get("quantization_config"):
        raise PipelineError(
            f"{path}: its weights are quantised (quantization_config): take the model in float32, bfloat16 or float16; "
            "training.lora.base_weights quantises it here"
        )
    wanted = transformers_config(architecture)
    try:
        found = _transformers().AutoConfig.for_model(**published)
    except Exception as error:  # transformers checks types and values and raises exceptions of several kinds
        raise PipelineError(f"{path}: not a configuration of {kind} ({' '.join(str(error).split())[:200]})") from None
    for key in (key for key in _COMPARED if key == "head_dim" or hasattr(wanted, key)):
        ours, theirs = (_value(each, key) for each in (wanted, found))
        if ours != theirs:
            raise PipelineError(
                f"{path}: {key} is {theirs!r}, model.architecture {chosen} has {ours!r}; choose the model's own "
                "architecture"
            )


def _value(config: Any, key: str) -> Any:
    """Reads a key of a configuration; a missing head_dim is derived, and a null of a yes-or-no key means no.

    Floats are rounded to float32: converters write 1e-6 as 9.999999974752427e-07, which is the same there.
    """
    value = getattr(config, key, None)
    if isinstance(value, float):
        return float(np.float32(value))
    if key == "use_bidirectional_attention":
        return bool(value)
    return config.hidden_size // config.num_attention_heads if key == "head_dim" and value is None else value
