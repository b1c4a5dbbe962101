"""The registry of model families, and the sizes of an architecture. No JAX here.

A new family has a module `family_NAME.py` with its `Family`, which is registered here, and a model class, which is
registered in `building.py`.
"""

from collections.abc import Mapping

from gsm8k_grpo.models import family_gemma, family_qwen2
from gsm8k_grpo.models.family import Family, Template

__all__ = ["FAMILIES", "GEMMA", "PRESETS", "QWEN", "Family", "Template"]

FAMILIES: dict[str, Family] = {
    family.name: family for family in (family_gemma.GEMMA2, family_gemma.GEMMA3, family_qwen2.QWEN2)
}
GEMMA, QWEN = family_gemma.TEMPLATE, family_qwen2.TEMPLATE
# Sizes of published models by name, with the keys of a miniature's `model.architecture`.
PRESETS = {name: sizes for family in FAMILIES.values() for name, sizes in family.presets.items()}

LFM2_UNSUPPORTED = "LFM2 is not supported: Tunix has no such model; take a Gemma or Qwen2.5 model"


def architecture_sizes(architecture: Mapping | str) -> Mapping:
    """The sizes of `model.architecture`, which is the name of a preset or the sizes themselves."""
    return PRESETS[architecture] if isinstance(architecture, str) else architecture


def family_of(architecture: Mapping | str) -> Family:
    """The family of an architecture."""
    return FAMILIES[architecture_sizes(architecture)["family"]]


def hub_name(kaggle_handle: str) -> str | None:
    """Translates the Kaggle handle of a model by a family's authors to its name on the Hugging Face hub.

    Others' models are not on the hub, or are different ones there: None.
    """
    for kaggle, hub in filter(None, (family.kaggle_handles for family in FAMILIES.values())):
        if kaggle_handle.startswith(kaggle):
            return hub + kaggle_handle.removeprefix(kaggle)
    return None


def approximate_parameters(architecture: Mapping | str) -> int:
    """Counts the scalars of embedding, attention and gated MLP; norms and biases are less than 0.1 % of a model."""
    sizes = architecture_sizes(architecture)
    width, heads = sizes["embed_dim"], 2 * sizes["num_heads"] + 2 * sizes["num_kv_heads"]
    layer = width * sizes["head_dim"] * heads + 3 * width * sizes["hidden_dim"]
    return sizes["vocabulary_size"] * width + sizes["num_layers"] * layer
