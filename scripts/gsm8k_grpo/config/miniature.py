"""Any recipe at the size of recipes/tiny.yaml: how a recipe is tested, and tried before anything is rented."""

from collections.abc import Mapping

from gsm8k_grpo.models.families import family_of

# What a miniature takes from tiny, per block. The rest is the recipe's own: family, tags, rewards, G, μ, β, ε,
# accumulation, precision, estimators, decoding.
TAKEN_FROM_TINY = {
    "mesh": ("tp",),
    "dataset": ("name", "source", "train_rows", "test_rows", "seed"),
    "model": ("source", "architecture", "pretraining"),
    "prompt": ("system", "max_tokens", "dev_rows"),
    "training": (
        "max_steps",
        "max_completion_tokens",
        "learning_rate",
        "max_gradient_norm",
        "checkpoint_interval_steps",
    ),
    "evaluation": ("selection_rows", "batch_size", "max_completion_tokens"),
}


def miniature_overlay(recipe: str, settings: Mapping, tiny: Mapping) -> dict:
    """What goes over a recipe's settings to make it small.

    Args:
      recipe: its name; the miniature's base model is called after it.
      settings: the recipe's, over config.yaml.
      tiny: the contents of recipes/tiny.yaml.

    Returns:
      nested settings: sizes, lengths and steps of `tiny`; a base model of the recipe's family, pretrained on
      demonstrations in the recipe's tags; LoRA of tiny's rank with the recipe's ratio of alpha to rank.
    """
    small = {block: {key: tiny[block][key] for key in keys} for block, keys in TAKEN_FROM_TINY.items()}
    small["mesh"]["fsdp"] = 1
    small["evaluation"]["rows"] = None  # all of the generated problems
    small["training"]["remat"] = False  # there is memory enough
    model, lora = small["model"], settings["training"]["lora"]
    family = family_of(settings["model"]["architecture"])
    model["name"] = f"{recipe}-miniature"
    model["architecture"] = model["architecture"] | {"family": family.name}
    if not family.windowed:
        model["architecture"]["sliding_window_tokens"] = None
    model["pretraining"] = model["pretraining"] | {"tags": settings["prompt"]["tags"]}
    if lora:
        rank = tiny["training"]["lora"]["rank"]
        small["training"]["lora"] = {"rank": rank, "alpha": rank * lora["alpha"] / lora["rank"]}
    return small
