"""What the library knows about a family of models, as data. No JAX here: rules and settings ask a family too."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from gsm8k_grpo.models.tensor_entry import TensorEntry

Sizes = Mapping[str, object]  # `model.architecture` of a miniature, or the same keys of a published model


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template, up to where the model speaks, and its control tokens.

    Attributes:
      name: for messages and for the file under huggingface/chat_templates/.
      text: one question; `{system}` is replaced by `system`, or by `no_system` where the system text is blank.
      strips: whether the published template strips the user's text.
      bos: the token that the sampler puts once before each prompt, or None.
      pad: fills up rows; it is never sampled.
      eos: the tokenizer's own end of a text.
      stops: the tokens that end a completion, as the published generation_config.json names them. The first ends a
        turn and is the one that pretraining teaches.
      needed: control tokens that the tokenizer must encode as one token each.
    """

    name: str
    text: str
    system: str
    no_system: str
    strips: bool
    bos: str | None
    pad: str
    eos: str
    stops: tuple[str, ...]
    needed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SentencePieceLayout:
    """A sentencepiece model: ids 0 to 3 are pad, eos, bos and unk; `symbols` follow.

    Attributes:
      files: of a published model that hold its tokenizer; the first that exists counts. Gemma's tokenizer.json holds
        the same tokenizer as its tokenizer.model.
    """

    symbols: tuple[str, ...]
    files: tuple[str, ...] = ("tokenizer.model", "tokenizer.json")


@dataclasses.dataclass(frozen=True)
class ByteLevelLayout:
    """A tokenizer.json with byte-level merges inside the matches of `word_pattern`; `symbols` have the last ids."""

    word_pattern: str
    symbols: tuple[str, ...]
    files: tuple[str, ...] = ("tokenizer.json",)


class Licence(NamedTuple):
    """A licence: its key on the Hugging Face hub, its title, where it stands, and the sentence for NOTICE."""

    key: str
    title: str
    address: str
    notice: str


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
      name: `model.architecture.family` in the settings.
      title: its name in texts.
      template: its chat template.
      system_role: whether the published chat template accepts a system message.
      lora_modules: Tunix's names of the modules that can get LoRA adapters, for `lora.target_modules`.
      windowed: whether some layers attend within a sliding window only.
      presets: the sizes of published models, by `model.architecture`.
      model_types: accepted in config.json; we write the first.
      config_class, model_class: the names of its classes in `transformers`.
      config_values: from sizes, what config.json says beyond the keys that all families share.
      eager_attention: whether `transformers` computes this family correctly with its eager attention only.
      layer_tensors: from sizes, the arrays of one layer and their Hugging Face tensors.
      norm_weight: Tunix's name of the array in a norm.
      flax_tensors: from sizes, (our path, Kaggle's name, the part of Kaggle's array) of all arrays in Kaggle's Flax
        checkpoint; None where we read none.
      tokenizer: how its tokenizer is laid out.
      licence: from `model.architecture` and the hub's handle, the licence of a published model; None where unknown.
      kaggle_handles: (how the handles of its authors' models begin on Kaggle, and on the Hugging Face hub).
    """

    name: str
    title: str
    template: Template
    system_role: bool
    lora_modules: tuple[str, ...]
    windowed: bool
    presets: Mapping[str, Sizes]
    model_types: tuple[str, ...]
    config_class: str
    model_class: str
    config_values: Callable[[Sizes], dict]
    eager_attention: bool
    layer_tensors: Callable[[Sizes], Iterable[TensorEntry]]
    norm_weight: str
    tokenizer: SentencePieceLayout | ByteLevelLayout
    licence: Callable[[Sizes | str, str], Licence | None]
    flax_tensors: Callable[[Sizes], Iterable[tuple]] | None = None
    kaggle_handles: tuple[str, str] | None = None
