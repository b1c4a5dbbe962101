"""The optimizer and its learning-rate schedule."""

from collections.abc import Mapping

import optax


def learning_rate_schedule(settings: Mapping) -> optax.Schedule:
    """Linear warm-up over `warmup_fraction` of the updates (μ a step), then a cosine to 0, as published."""
    updates = (settings["schedule_steps"] or settings["max_steps"]) * settings["num_iterations"]
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings["learning_rate"],
        warmup_steps=round(settings["warmup_fraction"] * updates),
        decay_steps=max(2, updates),
    )


def make_optimizer(settings: Mapping) -> optax.GradientTransformation:
    """AdamW behind clipping by global norm; the norm before clipping is kept in the state."""
    return optax.chain(
        optax.snapshot("gradient_norm", optax.global_norm),
        optax.clip_by_global_norm(settings["max_gradient_norm"]),
        optax.adamw(
            learning_rate_schedule(settings),
            b1=settings["adam_b1"],
            b2=settings["adam_b2"],
            weight_decay=settings["weight_decay"],
        ),
    )


def is_norm_snapshot(state: object) -> bool:
    return isinstance(state, optax.transforms.SnapshotState)
