"""A recipe's own programs, compiled for an accelerator that is not there, without weights: do they fit?

The programs are those of training: Tunix's trainer with our loss, `log_probs`, `rollout.Sampler`. Only their
arguments are abstract, with the shardings that real ones have. The compiler is the accelerator's own (libtpu), or the
CPU's where that is all there is; the latter is an estimate.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

from gsm8k_grpo.config.accelerators import Accelerator
from gsm8k_grpo.config.conflicts import mesh_conflicts
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.preflight import alternatives, bounds, compilation
from gsm8k_grpo.preflight.programs import Programs
from gsm8k_grpo.preflight.text import program_line, shown_gib

UNDECIDED_SHARE = 0.2  # the share of a chip's memory within which a screening decides nothing


def sharding_problems(chosen: Mapping, accelerator: Accelerator) -> list[str]:
    """Why these settings cannot be laid over the accelerator's chips; empty where they can."""
    mesh = chosen["mesh"]
    problems = [f"{key}: {problem}" for key, problem in mesh_conflicts(chosen)]
    if mesh["fsdp"] * mesh["tp"] > accelerator.chips:
        problems.append(
            f"mesh: fsdp {mesh['fsdp']} × tp {mesh['tp']} needs {mesh['fsdp'] * mesh['tp']} chips, "
            f"{accelerator.name} has {accelerator.chips}"
        )
    return problems


def warnings(chosen: Mapping, accelerator: Accelerator) -> list[str]:
    """What is no fault, but wasteful."""
    mesh, found = chosen["mesh"], []
    used = mesh["fsdp"] * mesh["tp"]
    if used < accelerator.chips:
        found.append(f"mesh: {used} of the {accelerator.chips} chips of {accelerator.name} are used")
    rows = min(chosen["evaluation"]["batch_size"], chosen["evaluation"]["rows"] or math.inf)
    if rows % mesh["fsdp"]:
        found.append(f"evaluation.batch_size: fsdp {mesh['fsdp']} does not divide {rows} rows: each chip has them all")
    return found


def examine(chosen: Mapping, accelerator: Accelerator, names: list[str] | None, say: Callable[[str], None]) -> dict:
    """Compiles programs one after the other and says whether they fit.

    Args:
      chosen: the recipe's settings.
      accelerator: what to compile for.
      names: of programs; None is all. With some alone, the first that does not fit is the last that is compiled.
      say: takes lines of progress.

    Returns:
      {"model": sizes on each chip, "programs": records}.
    """
    dtype, level = chosen["model"]["dtype"], chosen["preflight"]["level"]
    mesh = compilation.make_mesh(accelerator, chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    programs = Programs(chosen, mesh, accelerator.estimated)
    wanted, records = programs.names if names is None else names, []
    for number, name in enumerate(wanted, start=1):
        say(f"{name}: compiling ({number} of {len(wanted)})")
        record = compilation.compile_program(programs, name, level)
        record["fits"] = "error" not in record and record["needed_bytes"] <= accelerator.usable_hbm_bytes
        if "error" not in record:
            record |= bounds.bounds(record, accelerator, dtype)
        records.append(record)
        say(program_line(record, accelerator))
        if names is not None and not record["fits"]:
            break
    sizes = {
        "base_parameters": programs.base_parameters,
        "lora_parameters": programs.lora_parameters,
        "base_bytes": programs.base_bytes,
        "adapter_bytes": programs.adapter_bytes,
        "optimizer_bytes": programs.optimizer_bytes,
    }
    return {"model": sizes, "programs": records}


def preflight(chosen: Mapping, accelerator: Accelerator, say: Callable[[str], None]) -> dict:
    """The whole answer for one recipe: `results/RECIPE/preflight.json` but for its provenance.

    Args:
      chosen: the blocks seed, mesh, model, prompt, training, evaluation and preflight.
      accelerator: the one that `preflight.accelerator` names.
      say: takes lines of progress.
    """
    meshes = alternatives.mesh_sizes(chosen, accelerator.chips)
    answer = {
        "accelerator": {
            **dataclasses.asdict(accelerator),
            "compiler": "the CPU's: an estimate" if accelerator.estimated else "the accelerator's own (libtpu)",
        },
        "level": chosen["preflight"]["level"],
        "mesh": dict(chosen["mesh"]),
        "mesh_sizes_that_work": meshes,
        "warnings": warnings(chosen, accelerator),
    }
    problems = sharding_problems(chosen, accelerator)
    if problems:
        return {**answer, "verdict": "cannot be sharded", "reasons": problems}
    examined = examine(chosen, accelerator, None, say)
    records = examined["programs"]
    failing = [record for record in records if not record["fits"]]
    answer |= examined
    answer["warnings"] += [
        f"{record['name']}: {shown_gib(record['needed_bytes'])} of {shown_gib(accelerator.usable_hbm_bytes)} GiB at "
        "level screen, which has been seen 40 % below and 16 % above the default level; ask again with preflight.level "
        "verdict"
        for record in records
        if answer["level"] == "screen"
        and abs(record["needed_bytes"] / accelerator.usable_hbm_bytes - 1) < UNDECIDED_SHARE
    ]
    if not failing:
        price = chosen["preflight"]["price_per_chip_hour"]
        return {**answer, "verdict": "fits", "estimate": bounds.estimate_training(records, chosen, accelerator, price)}
    reasons = [
        f"{record['name']} needs {shown_gib(record['needed_bytes'])} GiB a chip, {accelerator.name} has "
        f"{shown_gib(accelerator.usable_hbm_bytes)}"
        for record in failing
    ]
    return {
        **answer,
        "verdict": "does not fit",
        "reasons": reasons,
        "tried": _try_alternatives(chosen, accelerator, failing, say),
    }


def _try_alternatives(
    chosen: Mapping, accelerator: Accelerator, failing: list[dict], say: Callable[[str], None]
) -> list[dict]:
    """Compiles the failing programs, then all, with other settings, until some fit; alone, then with the others."""
    names = [record["name"] for record in failing]
    needed = _with_prefills(names)
    tried, together = [], {}

    def attempt(change: dict) -> bool:
        say(f"trying {change}")
        other = merge(chosen, change)
        programs = examine(other, accelerator, needed, say)["programs"]
        if all(record["fits"] for record in programs):
            programs = examine(other, accelerator, None, say)["programs"]
        fits = all(record["fits"] for record in programs)
        tried.append({"settings": change, "fits": fits, "programs": programs})
        return fits

    for change in alternatives.alternatives(chosen, names, alternatives.mesh_sizes(chosen, accelerator.chips)):
        if attempt(change):
            return tried
        if "fsdp" in change.get("mesh", {}):  # meshes exclude one another
            continue
        more = merge(together, change)
        if more != change and attempt(more):  # with what did not do alone
            return tried
        together = more
    return tried


def _with_prefills(names: list[str]) -> list[str]:
    """The same, each decoding after its prefill: that says how its arguments are sharded."""
    wanted = []
    for name in names:
        before = name.replace("decode", "prefill")
        wanted += [each for each in dict.fromkeys((before, name)) if each not in wanted]
    return wanted
