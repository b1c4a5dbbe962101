"""The least time that a program, a step and a whole training can take."""

from collections.abc import Mapping

from gsm8k_grpo.config.accelerators import Accelerator


def bounds(record: Mapping, accelerator: Accelerator, dtype: str) -> dict:
    """The least seconds that a program can take on a chip, and what sets them.

    A decoding program: of one token, for which it reads at least its weights and its KV cache. (The compiler's count of
    bytes has what is done once before the loop in it.) `before_loop_seconds` is for the gathering of the weights.
    """
    decodes = record["name"].endswith("decode")
    moved = {place: sum(kind["bytes"] for kind in kinds.values()) for place, kinds in record["collectives"].items()}
    seconds = {
        "compute": record["flops"] / accelerator.peak_flops[dtype],
        "memory": record["read_bytes" if decodes else "bytes_accessed"] / accelerator.hbm_bytes_per_second,
    }
    before_loop = 0.0
    if accelerator.interconnect_bytes_per_second:
        looped, outside = (
            moved[place] / accelerator.interconnect_bytes_per_second for place in ("in_loops", "outside")
        )
        seconds["interconnect"] = looped if decodes else looped + outside
        before_loop = outside if decodes else 0.0
    bound_by = max(seconds, key=seconds.get)
    return {
        "bound_seconds": seconds[bound_by],
        "bound_by": bound_by,
        "seconds_by": seconds,
        **({"before_loop_seconds": before_loop} if decodes else {}),
    }


def estimate_training(
    records: list[dict], chosen: Mapping, accelerator: Accelerator, price_per_chip_hour: float | None
) -> dict:
    """The least time of a step and of the whole training, from the programs' bounds."""
    how = chosen["training"]
    bound = {record["name"]: record["bound_seconds"] for record in records}
    micro_batches = how["prompts_per_step"] // how["micro_batch_prompts"]
    calls = {
        stage: bound[f"{stage}_prefill"]
        + chosen[block]["max_completion_tokens"] * bound[f"{stage}_decode"]
        + sum(record["before_loop_seconds"] for record in records if record["name"] == f"{stage}_decode")
        for stage, block in (("rollout", "training"), ("evaluation", "evaluation"))
    }
    rollouts = micro_batches * calls["rollout"]
    log_probs = micro_batches * (bound.get("reference_log_probs", 0.0) + bound.get("old_log_probs", 0.0))
    updates = micro_batches * how["num_iterations"] * bound["train_step"]
    step = rollouts + log_probs + updates
    hours = step * how["max_steps"] / 3600
    return {
        "is": "an estimate" if accelerator.estimated else "a lower bound",
        "step_seconds": step,
        "rollout_seconds": rollouts,
        "log_probs_seconds": log_probs,
        "update_seconds": updates,
        "evaluation_batch_seconds": calls["evaluation"],
        "training_hours": hours,
        "price": None if price_per_chip_hour is None else hours * accelerator.chips * price_per_chip_hour,
        "assumptions": [
            "every program runs at the chip's peak of whatever bounds it (compute, memory or interconnect), by the "
            "compiler's own counts of FLOPs and bytes; real programs reach a part of it",
            f"every completion is as long as the limit, {how['max_completion_tokens']} tokens; shorter ones take less",
            "no time on the host: rewards, tokenizer, dispatch, checkpoints, compilation",
            "no evaluation, no download, no draws in place of groups without signal",
            *(
                ["bytes are of the CPU compiler's program, less fused and in float32: the card's may move fewer"]
                if accelerator.estimated
                else []
            ),
        ],
    }
