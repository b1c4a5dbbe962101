"""Whether a recipe fits on an accelerator: compiles its own programs, without weights and without the accelerator.

The programs are those of training and evaluation; only their arguments are abstract, with the shardings of real ones.
The accelerator's own compiler (libtpu) compiles them. For GPUs the CPU's compiler does, and the result is an estimate.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.config.accelerators import Accelerator
from gsm8k_grpo.config.conflicts import mesh_conflicts
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.models.precision import accelerator_dtype
from gsm8k_grpo.preflight import alternatives, bounds, compilation, disk
from gsm8k_grpo.preflight.programs import Programs
from gsm8k_grpo.preflight.text import program_line

UNDECIDED_SHARE = 0.2  # within this share of a chip's memory, level screen is too inexact to decide


def run_preflight(
    settings: Mapping, accelerator: Accelerator, log: Callable[[str], None], common_tokens: int = 0
) -> dict:
    """The whole result for one recipe: `results/RUN/preflight.json` without its provenance.

    Args:
      settings: the blocks seed, mesh, model, prompt, training, evaluation and preflight.
      accelerator: the one that `preflight.accelerator` names.
      log: takes lines of progress.
      common_tokens: with how many tokens all prompts begin alike.
    """
    result = {
        "accelerator": {
            **dataclasses.asdict(accelerator),
            "compiler": "the CPU's: an estimate" if accelerator.estimated else "the accelerator's own (libtpu)",
        },
        "level": settings["preflight"]["level"],
        "mesh": dict(settings["mesh"]),
        "mesh_sizes_that_work": alternatives.possible_meshes(settings, accelerator.chips),
        "warnings": waste_warnings(settings, accelerator),
        "disk": {f"{part}_bytes": size for part, size in disk.needed_bytes(settings).items()},
    }
    if problems := sharding_problems(settings, accelerator):
        return {**result, "verdict": "cannot be sharded", "reasons": problems}
    result |= compile_programs(settings, accelerator, None, log, common_tokens)
    records = result["programs"]
    if result["level"] == "screen":
        result["warnings"] += _undecided_warnings(records, accelerator)
    failing = [record for record in records if not record["fits"]]
    if not failing:
        price = settings["preflight"]["price_per_chip_hour"]
        estimate = bounds.estimate_training(records, settings, accelerator, price)
        return {**result, "verdict": "fits", "estimate": estimate}
    reasons = [
        f"{record['name']} needs {size_text(record['needed_bytes'])} a chip, {accelerator.name} has "
        f"{size_text(accelerator.usable_hbm_bytes)}"
        for record in failing
    ]
    tried = search_fitting_settings(settings, accelerator, [record["name"] for record in failing], log, common_tokens)
    return {**result, "verdict": "does not fit", "reasons": reasons, "tried": tried}


def sharding_problems(settings: Mapping, accelerator: Accelerator) -> list[str]:
    """Why the accelerator's chips cannot share this recipe's arrays; empty where they can."""
    mesh = settings["mesh"]
    problems = [f"{key}: {problem}" for key, problem in mesh_conflicts(settings)]
    if mesh["fsdp"] * mesh["tp"] > accelerator.chips:
        problems.append(
            f"mesh: fsdp {mesh['fsdp']} × tp {mesh['tp']} needs {mesh['fsdp'] * mesh['tp']} chips, "
            f"{accelerator.name} has {accelerator.chips}"
        )
    return problems


def waste_warnings(settings: Mapping, accelerator: Accelerator) -> list[str]:
    """Settings that work but leave chips idle or repeat work."""
    mesh, found = settings["mesh"], []
    used = mesh["fsdp"] * mesh["tp"]
    if used < accelerator.chips:
        found.append(f"mesh: {used} of the {accelerator.chips} chips of {accelerator.name} are used")
    rows = min(settings["evaluation"]["batch_size"], settings["evaluation"]["rows"] or math.inf)
    if rows % mesh["fsdp"]:
        found.append(
            f"evaluation.batch_size: fsdp {mesh['fsdp']} does not divide {rows} rows, so each chip computes all of them"
        )
    return found


def _undecided_warnings(records: list[dict], accelerator: Accelerator) -> list[str]:
    return [
        f"{record['name']}: {size_text(record['needed_bytes'])} of {size_text(accelerator.usable_hbm_bytes)} at level "
        "screen, which can be 40 % too low or 16 % too high; ask again with preflight.level verdict"
        for record in records
        if abs(record["needed_bytes"] / accelerator.usable_hbm_bytes - 1) < UNDECIDED_SHARE
    ]


def compile_programs(
    settings: Mapping,
    accelerator: Accelerator,
    doubtful: list[str] | None,
    log: Callable[[str], None],
    common_tokens: int = 0,
) -> dict:
    """Compiles programs one after the other and decides for each whether it fits.

    Args:
      settings: the recipe's settings.
      accelerator: what to compile for.
      doubtful: names of programs to compile before the others; the first that does not fit ends the compilation. With
        None all are compiled, whether they fit or not.
      log: takes lines of progress.
      common_tokens: as in `Programs`.

    Returns:
      {"model": sizes on each chip, "programs": records}.
    """
    dtype, level = accelerator_dtype(settings["model"]["dtype"]), settings["preflight"]["level"]
    mesh = compilation.make_mesh(accelerator, settings["mesh"]["fsdp"], settings["mesh"]["tp"])
    programs = Programs(settings, mesh, accelerator.estimated, common_tokens)
    names, records = list(dict.fromkeys([*(doubtful or ()), *programs.names])), []
    for number, name in enumerate(names, start=1):
        log(f"{name}: compiling ({number} of {len(names)})")
        record = compilation.compile_program(programs, name, level)
        record["fits"] = "error" not in record and record["needed_bytes"] <= accelerator.usable_hbm_bytes
        if "error" not in record:
            record |= bounds.program_bounds(record, accelerator, dtype)
        records.append(record)
        log(program_line(record, accelerator))
        if doubtful is not None and not record["fits"]:
            break
    records.sort(key=lambda record: programs.names.index(record["name"]))
    keys = ("base_parameters", "lora_parameters", "base_bytes", "adapter_bytes", "optimizer_bytes")
    return {"model": {key: getattr(programs, key) for key in keys}, "programs": records}


def search_fitting_settings(
    settings: Mapping,
    accelerator: Accelerator,
    failing: list[str],
    log: Callable[[str], None],
    common_tokens: int = 0,
) -> list[dict]:
    """Tries other settings until some fit: each change alone, then together with the changes before it.

    Args:
      failing: names of the programs that do not fit.

    Returns:
      the attempts, {"settings", "fits", "programs"}. If any fits, it is the last.
    """
    doubtful = _with_prefills(failing)
    tried, together = [], {}

    def attempt(change: dict) -> bool:
        log(f"trying {change}")
        records = compile_programs(merge(settings, change), accelerator, doubtful, log, common_tokens)["programs"]
        fits = all(record["fits"] for record in records)
        tried.append({"settings": change, "fits": fits, "programs": records})
        return fits

    meshes = alternatives.possible_meshes(settings, accelerator.chips)
    for change in alternatives.alternative_settings(settings, failing, meshes):
        if attempt(change):
            return tried
        if "fsdp" in change.get("mesh", {}):  # a recipe has one mesh: two of them cannot be combined
            continue
        combined = merge(together, change)
        if combined != change and attempt(combined):
            return tried
        together = combined
    return tried


def _with_prefills(names: list[str]) -> list[str]:
    """The names, each decoding after its prefill, which tells how decoding's arguments are sharded."""
    return list(dict.fromkeys(each for name in names for each in (name.replace("decode", "prefill"), name)))
