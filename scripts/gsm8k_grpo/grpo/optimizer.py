"""The optimizer and its learning-rate schedule."""

from collections.abc import Mapping

import optax

GRADIENT_NORM = "gradient_norm"  # its name in the optimizer's state


def learning_rate_schedule(training_settings: Mapping) -> optax.Schedule:
    """Linear warm-up over `warmup_fraction` of the updates (μ in each step), then a cosine.

    It ends at `final_learning_rate_fraction` of the peak.
    """
    steps = training_settings["schedule_steps"] or training_settings["max_steps"]
    updates = steps * training_settings["num_iterations"]
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=training_settings["learning_rate"],
        warmup_steps=round(training_settings["warmup_fraction"] * updates),
        decay_steps=max(2, updates),
        end_value=training_settings["final_learning_rate_fraction"] * training_settings["learning_rate"],
    )


def make_optimizer(training_settings: Mapping) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm. The state keeps the norm before clipping, see `GRADIENT_NORM`."""
    largest_norm = training_settings["max_gradient_norm"]
    return optax.chain(
        optax.snapshot(GRADIENT_NORM, optax.global_norm),
        optax.clip_by_global_norm(largest_norm) if largest_norm else optax.identity(),
        optax.adamw(
            learning_rate_schedule(training_settings),
            b1=training_settings["adam_b1"],
            b2=training_settings["adam_b2"],
            weight_decay=training_settings["weight_decay"],
        ),
    )
