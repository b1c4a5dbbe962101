"""The families of models: what each is called, how it is asked, what its modules are. No JAX here: the rules ask too.

What computes is in models.py (Tunix), what maps weights to Hugging Face's names in weight_names.py.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template, up to where the model speaks, with the control tokens that it is written in.

    Attributes:
      name: for messages.
      text: of one question; `{system}` is what `system` (or `no_system`, where the text is blank) makes.
      strips: whether the published template strips what the user says.
      bos: what the sampler puts once before each prompt, or None.
      pad: fills rows up; never sampled.
      eos: the tokenizer's own end of a text.
      stops: what completions stop at, as the published generation_config.json say; the first ends a turn and is taught.
      needed: must each be one token.
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


GEMMA = Template(
    name="gemma",
    # Gemma has no system role: the system text goes into the first user turn, as Gemma 3's own template has it.
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
QWEN = Template(
    name="qwen",
    text="{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
    system="<|im_start|>system\n{system}<|im_end|>\n",
    # Qwen2.5's own template says so where no one says anything.
    no_system="<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n",
    strips=False,
    bos=None,
    pad="<|endoftext|>",
    eos="<|im_end|>",
    # The second is the padding too, which is never drawn.
    stops=("<|im_end|>", "<|endoftext|>"),
    needed=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
)


@dataclasses.dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
      name: `family` of the settings.
      title: how it is called in texts.
      template: its chat template.
      modules: Tunix's names of the modules that can get adapters.
      windowed: whether some of its layers attend within a sliding window only.
      model_types: of config.json; the first is what is written.
    """

    name: str
    title: str
    template: Template
    modules: tuple[str, ...]
    windowed: bool
    model_types: tuple[str, ...]


_GEMMA_MODULES = ("q_einsum", "kv_einsum", "attn_vec_einsum", "gate_proj", "up_proj", "down_proj")
_QWEN_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FAMILIES = {
    family.name: family
    for family in (
        Family("gemma2", "Gemma 2", GEMMA, _GEMMA_MODULES, True, ("gemma2",)),
        Family("gemma3", "Gemma 3", GEMMA, _GEMMA_MODULES, True, ("gemma3_text",)),
        Family("qwen2", "Qwen2.5", QWEN, _QWEN_MODULES, False, ("qwen2",)),
    )
}

LFM2_UNSUPPORTED = (
    "LFM2 is not supported: Tunix has no such model, and LFM2-350M was tried on this task and never writes the tags; "
    "take a Gemma or Qwen2.5 model"
)

# Published shapes by name, in the keys of a miniature's `model.architecture`.
PRESETS = {
    # https://arxiv.org/abs/2408.00118, table 1. Its tokenizer has 256,000 pieces; the 128 further rows of Kaggle's
    # embedding belong to none and are left out, as in Hugging Face's.
    "gemma2_2b": {
        **{"family": "gemma2", "num_layers": 26, "embed_dim": 2304, "hidden_dim": 9216, "num_heads": 8},
        **{"num_kv_heads": 4, "head_dim": 256, "vocabulary_size": 256_000, "sliding_window_tokens": 4096},
    },
    # https://arxiv.org/abs/2503.19786; config.json of google/gemma-3-1b-it.
    "gemma3_1b": {
        **{"family": "gemma3", "num_layers": 26, "embed_dim": 1152, "hidden_dim": 6912, "num_heads": 4},
        **{"num_kv_heads": 1, "head_dim": 256, "vocabulary_size": 262_144, "sliding_window_tokens": 512},
    },
    # https://arxiv.org/abs/2412.15115; config.json of Qwen/Qwen2.5-0.5B-Instruct.
    "qwen2.5_0.5b": {
        **{"family": "qwen2", "num_layers": 24, "embed_dim": 896, "hidden_dim": 4864, "num_heads": 14},
        **{"num_kv_heads": 2, "head_dim": 64, "vocabulary_size": 151_936, "sliding_window_tokens": None},
    },
}


def architecture_sizes(architecture: Mapping | str) -> Mapping:
    """The sizes of an architecture (`model.architecture`): a preset's by its name, or as they stand."""
    return PRESETS[architecture] if isinstance(architecture, str) else architecture


def family_of(architecture: Mapping | str) -> Family:
    """The family of an architecture."""
    return FAMILIES[architecture_sizes(architecture)["family"]]


def approximate_parameters(architecture: Mapping | str) -> int:
    """Scalars of a model but for norms and biases (less than 0.1 %): embedding, attention and gated MLP."""
    shape = architecture_sizes(architecture)
    width, heads = shape["embed_dim"], 2 * shape["num_heads"] + 2 * shape["num_kv_heads"]
    layer = width * shape["head_dim"] * heads + 3 * width * shape["hidden_dim"]
    return shape["vocabulary_size"] * width + shape["num_layers"] * layer
