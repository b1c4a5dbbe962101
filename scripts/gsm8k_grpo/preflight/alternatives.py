"""Settings to try when a recipe does not fit."""

import itertools
from collections.abc import Iterator, Mapping

from gsm8k_grpo.config.conflicts import mesh_conflicts
from gsm8k_grpo.config.merging import merge


def possible_meshes(settings: Mapping, chips: int) -> list[dict]:
    """All meshes over exactly `chips` chips that divide the recipe's sizes, the largest fsdp first."""
    meshes = [{"fsdp": chips // tp, "tp": tp} for tp in range(1, chips + 1) if chips % tp == 0]
    return [mesh for mesh in meshes if not list(mesh_conflicts(merge(settings, {"mesh": mesh})))]


def alternative_settings(settings: Mapping, failing: list[str], meshes: list[dict]) -> Iterator[dict]:
    """Yields changes that may make a recipe fit, the cheapest for the user first.

    Args:
      settings: the recipe's settings; each change is to be merged over them.
      failing: names of the programs that do not fit.
      meshes: the result of `possible_meshes`.
    """
    training, mesh = settings["training"], settings["mesh"]
    training_fails = any(not name.startswith("evaluation") for name in failing)
    evaluation_fails = any(name.startswith("evaluation") for name in failing)
    for other in meshes:
        if other != {"fsdp": mesh["fsdp"], "tp": mesh["tp"]}:
            yield {"mesh": other}
    if mesh["fsdp"] > 1 and mesh["decode_weights"] == "gathered" and any(name.endswith("decode") for name in failing):
        yield {"mesh": {"decode_weights": "sharded"}}
    if "train_step" in failing and not training["remat"]:
        yield {"training": {"remat": True}}
    if training_fails:
        for prompts in range(training["micro_batch_prompts"] // 2, 0, -1):
            sequences = prompts * training["num_generations"]
            if training["prompts_per_step"] % prompts == 0 and sequences % mesh["fsdp"] == 0:
                yield {"training": {"micro_batch_prompts": prompts}}
    if evaluation_fails:
        size = settings["evaluation"]["batch_size"]
        for batch_size in itertools.takewhile(lambda rows: rows >= mesh["fsdp"], (size // 2, size // 4, size // 8)):
            yield {"evaluation": {"batch_size": batch_size}}
    if settings["model"]["dtype"] == "float32":
        yield {"model": {"dtype": "bfloat16"}}
