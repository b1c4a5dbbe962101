"""Settings to try where a recipe does not fit."""

import itertools
from collections.abc import Iterator, Mapping

from gsm8k_grpo.config.conflicts import mesh_conflicts
from gsm8k_grpo.config.merging import merge


def mesh_sizes(chosen: Mapping, chips: int) -> list[dict]:
    """All meshes over exactly so many chips that the recipe's sizes divide into; most fsdp first."""
    sizes = [{"fsdp": chips // tp, "tp": tp} for tp in range(1, chips + 1) if chips % tp == 0]
    return [size for size in sizes if not list(mesh_conflicts(merge(chosen, {"mesh": size})))]


def alternatives(chosen: Mapping, failing: list[str], meshes: list[dict]) -> Iterator[dict]:
    """Settings to try where programs do not fit, the cheapest for the user first; each is merged over the recipe's.

    Args:
      chosen: the recipe's settings.
      failing: names of the programs that do not fit.
      meshes: of `mesh_sizes`.
    """
    how, mesh = chosen["training"], chosen["mesh"]
    for size in meshes:
        if size != {"fsdp": mesh["fsdp"], "tp": mesh["tp"]}:
            yield {"mesh": size}
    if mesh["fsdp"] > 1 and mesh["decode_weights"] == "gathered" and any(name.endswith("decode") for name in failing):
        yield {"mesh": {"decode_weights": "sharded"}}
    if "train_step" in failing and not how["remat"]:
        yield {"training": {"remat": True}}
    if any(not name.startswith("evaluation") for name in failing):
        for count in range(how["micro_batch_prompts"] // 2, 0, -1):
            divides = how["prompts_per_step"] % count == 0
            if divides and count * how["num_generations"] % mesh["fsdp"] == 0:
                yield {"training": {"micro_batch_prompts": count}}
    if any(name.startswith("evaluation") for name in failing):
        size = chosen["evaluation"]["batch_size"]
        for batch_size in itertools.takewhile(lambda each: each >= mesh["fsdp"], (size // 2, size // 4, size // 8)):
            yield {"evaluation": {"batch_size": batch_size}}
    if chosen["model"]["dtype"] == "float32":
        yield {"model": {"dtype": "bfloat16"}}
