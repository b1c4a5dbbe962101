"""The preflight's answer as text for people."""

from collections.abc import Mapping

from gsm8k_grpo.config.accelerators import GIB, Accelerator


def shown_gib(size: float) -> str:
    """Bytes for people, in GiB."""
    return f"{size / GIB:,.2f}"


def program_line(record: Mapping, accelerator: Accelerator) -> str:
    """One program's record for people."""
    text = f"{record['name']}: {shown_gib(record['needed_bytes'])} of {shown_gib(accelerator.usable_hbm_bytes)} GiB, "
    if "error" in record:
        return f"{text}does not fit ({record['error']}); compiled in {record['compile_seconds']:.0f} s"
    looped = ""
    if record["name"].endswith("decode"):
        gathers = record["collectives"]["in_loops"].get("all-gather", {"count": 0, "bytes": 0})
        looped = f", {gathers['count']} all-gathers of {gathers['bytes'] / 1e6:.3g} MB a token"
    return (
        f"{text}{'fits' if record['fits'] else 'does not fit'}; {record['flops'] / 1e12:.3g} TFLOP, at least "
        f"{record['bound_seconds'] * 1000:.3g} ms ({record['bound_by']}){looped}; compiled in "
        f"{record['compile_seconds']:.0f} s"
    )


def table(answer: Mapping) -> str:
    """The answer for people."""
    accelerator, mesh = answer["accelerator"], answer["mesh"]
    lines = [
        f"{accelerator['name']}: {accelerator['chips']} chips of {shown_gib(accelerator['usable_hbm_bytes'])} GiB; "
        f"mesh fsdp {mesh['fsdp']} × tp {mesh['tp']}; compiled by {accelerator['compiler']}, level {answer['level']}"
    ]
    if "programs" in answer:
        lines += ["", *_program_rows(answer["programs"])]
    for attempt in answer.get("tried", ()):
        lines += ["", f"with {attempt['settings']}: {'fits' if attempt['fits'] else 'does not fit'}"]
        lines += _program_rows(attempt["programs"])
    lines += ["", *(f"WARNING: {text}" for text in answer["warnings"])]
    lines.append(f"{answer['verdict']}" + "".join(f"\n  {text}" for text in answer.get("reasons", ())))
    if answer["verdict"] == "cannot be sharded":
        works = ", ".join(f"fsdp {size['fsdp']} × tp {size['tp']}" for size in answer["mesh_sizes_that_work"])
        lines.append(f"  meshes of {accelerator['chips']} chips that work: {works or 'none'}")
    if "tried" in answer:
        fitting = [attempt["settings"] for attempt in answer["tried"] if attempt["fits"]]
        lines.append(f"  fits with {fitting[0]}" if fitting else "  none of the settings that were tried makes it fit")
    if "estimate" in answer:
        bound = answer["estimate"]
        price = "" if bound["price"] is None else f", at a price of {bound['price']:,.2f} or more"
        lines.append(
            f"at least {bound['step_seconds']:.2f} s a step (rollout {bound['rollout_seconds']:.2f}, log-probs "
            f"{bound['log_probs_seconds']:.2f}, update {bound['update_seconds']:.2f}), "
            f"{bound['training_hours']:.2f} hours of training{price}: {bound['is']}"
        )
        lines += [f"  assuming {text}" for text in bound["assumptions"]]
    return "\n".join(lines)


def _program_rows(records: list[dict]) -> list[str]:
    columns = ("arguments", "temporaries", "peak", "beside it", "needed", "KV cache")
    keys = ("argument_bytes", "temporary_bytes", "peak_bytes", "resident_bytes", "needed_bytes", "kv_cache_bytes")
    lines = [f"{'GiB a chip':<20}" + "".join(f"{name:>12}" for name in columns) + "  TFLOP     bound"]
    for record in records:
        cells = "".join(f"{shown_gib(record[key]) if key in record else '-':>12}" for key in keys)
        bound = (
            f" {record['flops'] / 1e12:7.3g}  {record['bound_seconds'] * 1000:7.3g} ms {record['bound_by']}"
            if ("bound_seconds" in record)
            else ""
        )
        lines.append(f"{record['name']:<20}{cells}{bound}" + ("" if record["fits"] else "  DOES NOT FIT"))
    return lines
