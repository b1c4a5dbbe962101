"""The preflight's result as text for people."""

from collections.abc import Mapping

from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.config.accelerators import Accelerator

COLUMNS = ("argument", "temporary", "peak", "resident", "needed", "kv_cache")  # sizes on each chip


def program_line(record: Mapping, accelerator: Accelerator) -> str:
    """One compiled program in one line; `result_text` has its FLOPs and bounds."""
    problem = f" ({record['error']})" if "error" in record else ""
    return (
        f"{record['name']}: {size_text(record['needed_bytes'])} of {size_text(accelerator.usable_hbm_bytes)}, "
        f"{'fits' if record['fits'] else 'does not fit'}{problem}; compiled in {record['compile_seconds']:.0f} s"
    )


def result_text(result: Mapping) -> str:
    """The whole result: a table of the programs, the verdict and the estimate."""
    accelerator, mesh = result["accelerator"], result["mesh"]
    lines = [
        f"{accelerator['name']}: {accelerator['chips']} × {size_text(accelerator['usable_hbm_bytes'])} of memory; "
        f"mesh fsdp {mesh['fsdp']} × tp {mesh['tp']}; compiled by {accelerator['compiler']}, level {result['level']}"
    ]
    if "programs" in result:
        lines += ["", *_program_table(result["programs"])]
    for attempt in result.get("tried", ()):
        lines += ["", f"with {attempt['settings']}: {'fits' if attempt['fits'] else 'does not fit'}"]
        lines += _program_table(attempt["programs"])
    lines += ["", *(f"WARNING: {warning}" for warning in result["warnings"]), result["verdict"]]
    lines += [f"  {reason}" for reason in result.get("reasons", ())]
    if result["verdict"] == "cannot be sharded":
        works = ", ".join(f"fsdp {size['fsdp']} × tp {size['tp']}" for size in result["mesh_sizes_that_work"])
        lines.append(f"  meshes of {accelerator['chips']} chips that work: {works or 'none'}")
    if "tried" in result:
        fitting = [attempt["settings"] for attempt in result["tried"] if attempt["fits"]]
        lines.append(f"  fits with {fitting[0]}" if fitting else "  none of the settings that were tried makes it fit")
    if "estimate" in result:
        estimate = result["estimate"]
        price = "" if estimate["price"] is None else f", at a price of {estimate['price']:,.2f} or more"
        lines.append(
            f"at least {estimate['step_seconds']:.2f} s a step (rollout {estimate['rollout_seconds']:.2f}, log-probs "
            f"{estimate['log_probs_seconds']:.2f}, update {estimate['update_seconds']:.2f}), "
            f"{estimate['training_hours']:.2f} hours of training{price}: {estimate['is']}"
        )
        lines += [f"  assuming that {assumption}" for assumption in estimate["assumptions"]]
    sizes = {part: size_text(result["disk"][f"{part}_bytes"]) for part in ("weights", "checkpoints", "checkpoint")}
    lines.append(
        f"disk: base model {sizes['weights']}, checkpoints {sizes['checkpoints']} (each {sizes['checkpoint']}, one "
        f"more than are kept), download {size_text(result['disk']['download_bytes'])}"
    )
    return "\n".join(lines)


def _program_table(records: list[dict]) -> list[str]:
    lines = [f"{'on each chip':<20}" + "".join(f"{column:>12}" for column in COLUMNS) + "  TFLOP     bound"]
    keys = [f"{column}_bytes" for column in COLUMNS]
    for record in records:
        cells = "".join(f"{size_text(record[key]) if key in record else '-':>12}" for key in keys)
        bound = ""
        if "bound_seconds" in record:
            bound = f" {record['flops'] / 1e12:7.3g}  {record['bound_seconds'] * 1000:7.3g} ms {record['bound_by']}"
        lines.append(f"{record['name']:<20}{cells}{bound}" + ("" if record["fits"] else "  DOES NOT FIT"))
    return lines
