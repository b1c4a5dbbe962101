"""Which checkpoints a run keeps, and their names."""

import pytest

from gsm8k_grpo.grpo.kept_checkpoints import checkpoint_names, checkpoint_steps


@pytest.mark.parametrize(
    ("max_steps", "interval", "steps", "names"),
    [
        (100, 50, [50, 100], ["base", "step-50", "final"]),
        (100, 40, [40, 80, 100], ["base", "step-40", "step-80", "final"]),
        (100, 100, [100], ["base", "final"]),
        (1, 1, [1], ["base", "final"]),
        (
            3738,
            500,
            [500, 1000, 1500, 2000, 2500, 3000, 3500, 3738],
            ["base", "step-500", "step-1000", "step-1500", "step-2000", "step-2500", "step-3000", "step-3500", "final"],
        ),
    ],
)
def test_every_interval_and_the_last_step_are_kept_and_named(max_steps, interval, steps, names):
    assert checkpoint_steps(max_steps, interval) == steps
    assert checkpoint_names({"max_steps": max_steps, "checkpoint_interval_steps": interval}) == names
