"""Settings to try when a recipe does not fit."""

import itertools
from collections.abc import Iterator, Mapping

from gsm8k_grpo.config.batches import step_completions
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
    if "gradient" in failing and not training["remat"]:
        yield {"training": {"remat": True}}
    if training_fails:
        for key, smallest in (
            ("micro_batch_completions", 1),
            ("rollout_batch_completions", training["num_generations"]),
        ):
            yield from ({"training": {key: size}} for size in _smaller_batches(training, key, smallest, mesh["fsdp"]))
    if evaluation_fails:
        size = settings["evaluation"]["batch_size"]
        for batch_size in itertools.takewhile(lambda rows: rows >= mesh["fsdp"], (size // 2, size // 4, size // 8)):
            yield {"evaluation": {"batch_size": batch_size}}
    if settings["model"]["dtype"] == "float32":
        yield {"model": {"dtype": "bfloat16"}}


def _smaller_batches(training: Mapping, key: str, smallest: int, fsdp: int) -> Iterator[int]:
    """Halves a batch size as often as the settings allow it."""
    size = training[key] or step_completions(training)
    while size % 2 == 0 and size // 2 >= smallest and size // 2 % fsdp == 0:
        size //= 2
        yield size
