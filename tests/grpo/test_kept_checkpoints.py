"""Which checkpoints a run keeps, and their names."""

import pytest

from gsm8k_grpo.grpo.kept_checkpoints import checkpoint_names, kept_steps, saved_steps


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
    training = {"max_steps": max_steps, "checkpoint_interval_steps": interval, "keep_checkpoints": None}
    assert saved_steps(training) == kept_steps(training) == steps
    assert checkpoint_names(training) == names


def test_the_last_ones_are_kept_while_training_goes_on_and_at_its_end():
    training = {"max_steps": 3738, "checkpoint_interval_steps": 500, "keep_checkpoints": 2}
    assert saved_steps(training)[:3] == [500, 1000, 1500]
    assert [kept_steps(training, step) for step in (499, 500, 1700, 3738)] == [
        [],
        [500],
        [1000, 1500],
        [3500, 3738],
    ]
    assert kept_steps(training) == [3500, 3738]
    assert checkpoint_names(training) == ["base", "step-3500", "final"]
    assert kept_steps({**training, "keep_checkpoints": 100}) == saved_steps(training)
