"""Settings to try when a recipe does not fit."""

import itertools
from collections.abc import Iterator, Mapping

from gsm8k_grpo.config.batch_sizes import micro_batch, rollout_batch
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
    evaluation_fails = any(name.startswith("evaluation") for name in failing)
    for other in meshes:
        if other != {"fsdp": mesh["fsdp"], "tp": mesh["tp"]}:
            yield {"mesh": other}
    gathers = mesh["fsdp"] > 1 and mesh["decode_weights"] == "gathered"
    if gathers and any(name.endswith(("weights", "decode", "refill")) for name in failing):
        yield {"mesh": {"decode_weights": "sharded"}}
    if "gradient" in failing:
        stronger = {None: ("selective", "full"), "selective": ("full",), "full": ()}
        yield from ({"training": {"remat": remat}} for remat in stronger[training["remat"]])
    if {"gradient", "reference_log_probs", "old_log_probs"} & set(failing):
        for size in _halves(micro_batch(training), 1, mesh["fsdp"]):
            yield {"training": {"micro_batch_completions": size}}
    if any(name.startswith("rollout") for name in failing):
        for size in _halves(rollout_batch(training), training["num_generations"], mesh["fsdp"]):
            yield {"training": {"rollout_batch_completions": size}}
    if evaluation_fails:
        size = settings["evaluation"]["batch_size"]
        for batch_size in itertools.takewhile(lambda rows: rows >= mesh["fsdp"], (size // 2, size // 4, size // 8)):
            yield {"evaluation": {"batch_size": batch_size}}
    if settings["model"]["dtype"] == "float32":
        yield {"model": {"dtype": "bfloat16"}}


def _halves(size: int, smallest: int, fsdp: int) -> Iterator[int]:
    """Halves a number of completions as long as it is at least `smallest` and `fsdp` divides it."""
    while size % 2 == 0 and size // 2 >= smallest and size // 2 % fsdp == 0:
        size //= 2
        yield size
