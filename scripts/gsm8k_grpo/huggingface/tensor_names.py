"""The table of a model's tensors in Hugging Face's format, in both directions. No JAX here."""

from collections.abc import Mapping

from gsm8k_grpo.models.families import architecture_sizes, family_of
from gsm8k_grpo.models.tensor_entry import TensorEntry, unchanged


def tensor_table(architecture: Mapping | str) -> list[TensorEntry]:
    """Lists all weights of an architecture (`model.architecture`), each of our arrays once.

    All families tie the output to the embedding: there is no lm_head.
    """
    family, sizes = family_of(architecture), architecture_sizes(architecture)
    layers = range(sizes["num_layers"])
    return [
        unchanged(("embedder", "input_embedding"), "model.embed_tokens.weight"),
        *(entry.in_layer(index) for index in layers for entry in family.layer_tensors(sizes)),
        unchanged(("final_norm", family.norm_weight), "model.norm.weight"),
    ]
