"""Any recipe at the size of recipes/tiny.yaml: how a recipe is tested, and tried before anyone rents hardware."""

from collections.abc import Mapping

from gsm8k_grpo.models.families import family_of

# What a miniature takes from tiny, a block a line. The rest is the recipe's own: family, tags, rewards, G, μ, β, ε,
# accumulation, precision, estimators, decoding. The optimizer is tiny's, as its learning rate was chosen with it.
KEYS_FROM_TINY = {
    "mesh": ("tp",),
    "dataset": ("name", "source", "train_rows", "test_rows", "seed", "shuffle_seed"),
    "model": ("source", "architecture", "pretraining"),
    "prompt": ("system", "layout", "warm_start_layout", "max_tokens", "dev_rows"),
    "training": (
        "max_steps",
        "max_completion_tokens",
        "learning_rate",
        "final_learning_rate_fraction",
        "schedule_steps",
        "warmup_fraction",
        "adam_b1",
        "adam_b2",
        "weight_decay",
        "max_gradient_norm",
        "checkpoint_interval_steps",
    ),
    "evaluation": ("selection_rows", "batch_size", "max_completion_tokens"),
}


def miniature_overlay(recipe: str, settings: Mapping, tiny: Mapping) -> dict:
    """The settings that make a recipe small.

    Args:
      recipe: its name; the miniature's base model is called after it.
      settings: the recipe's, over config.yaml.
      tiny: those of the recipe `tiny`, over config.yaml.

    Returns:
      nested settings to merge over the recipe's: sizes, lengths and steps of `tiny`; a base model of the recipe's
      family, pretrained on demonstrations in the recipe's tags; LoRA of tiny's rank with the recipe's ratio of alpha
      to rank.
    """
    small = {block: {key: tiny[block][key] for key in keys} for block, keys in KEYS_FROM_TINY.items()}
    small["mesh"]["fsdp"] = 1
    small["evaluation"]["rows"] = None  # all of the generated problems
    small["training"]["remat"] = None  # a miniature needs no memory to be saved
    warm_start, steps = settings["training"]["warm_start_steps"], settings["training"]["max_steps"]
    small["training"]["warm_start_steps"] = warm_start * small["training"]["max_steps"] // steps
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
