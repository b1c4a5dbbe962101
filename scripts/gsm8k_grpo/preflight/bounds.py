"""The least time that a program, a training step and a whole training can take."""

from collections.abc import Mapping

from gsm8k_grpo.config.accelerators import Accelerator
from gsm8k_grpo.config.batch_sizes import micro_batch, rollout_batch, step_completions


def program_bounds(record: Mapping, accelerator: Accelerator, dtype: str) -> dict:
    """The least seconds that a program takes on a chip, and the resource that limits it.

    For a decoding program the bound is that of one token, which reads at least the weights and the KV cache. The
    compiler's byte count does not serve there: it includes what runs once, outside of the loop.
    """
    decodes = record["name"].endswith("decode")
    seconds = {
        "compute": record["flops"] / accelerator.peak_flops[dtype],
        "memory": record["read_bytes" if decodes else "bytes_accessed"] / accelerator.hbm_bytes_per_second,
    }
    if accelerator.interconnect_bytes_per_second:
        in_loops, outside = (
            sum(kind["bytes"] for kind in record["collectives"][place].values())
            / accelerator.interconnect_bytes_per_second
            for place in ("in_loops", "outside")
        )
        seconds["interconnect"] = in_loops if decodes else in_loops + outside
    bound_by = max(seconds, key=seconds.get)
    return {
        "bound_seconds": seconds[bound_by],
        "bound_by": bound_by,
        "seconds_by": seconds,
    }


def estimate_training(
    records: list[dict], settings: Mapping, accelerator: Accelerator, price_per_chip_hour: float | None
) -> dict:
    """The least time of a step and of the whole training: the programs' bounds, each as often as it runs."""
    training = settings["training"]
    bound = {record["name"]: record["bound_seconds"] for record in records}
    completions = step_completions(training)
    micro_batches, batches = completions // micro_batch(training), completions // rollout_batch(training)
    batch = {
        stage: bound[f"{stage}_prefill"]
        + settings[block]["max_completion_tokens"] * bound[f"{stage}_decode"]
        + bound.get(f"{stage}_weights", 0.0)
        for stage, block in (("rollout", "training"), ("evaluation", "evaluation"))
    }
    rollouts = batches * batch["rollout"] + bound.get("rollout_prefix", 0.0)
    log_probs = micro_batches * (bound.get("reference_log_probs", 0.0) + bound.get("old_log_probs", 0.0))
    updates = training["num_iterations"] * (micro_batches * bound["gradient"] + bound["optimizer_step"])
    step = rollouts + log_probs + updates
    hours = step * training["max_steps"] / 3600
    return {
        "is": "an estimate" if accelerator.estimated else "a lower bound",
        "step_seconds": step,
        "rollout_seconds": rollouts,
        "log_probs_seconds": log_probs,
        "update_seconds": updates,
        "evaluation_batch_seconds": batch["evaluation"],
        "training_hours": hours,
        "price": None if price_per_chip_hour is None else hours * accelerator.chips * price_per_chip_hour,
        "assumptions": [
            "every program reaches the chip's peak of what limits it (compute, memory or interconnect), by the "
            "compiler's own counts of FLOPs and bytes; real programs reach a part of it",
            f"every completion has the full {training['max_completion_tokens']} tokens; shorter ones take less time",
            "the host takes no time: rewards, tokenizer, dispatch, checkpoints and compilation are left out",
            "evaluation, downloads and the rollouts that replace groups without signal are left out",
            *(["bytes are those of the CPU compiler's program; a GPU may move fewer"] if accelerator.estimated else []),
        ],
    }
