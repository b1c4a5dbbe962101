"""A run that goes wrong says so: step, figure, what to change."""

import math

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.grpo import health


def rows(norms, flat=None, replaced=0.0):
    flat = flat or [0.0] * len(norms)
    others = {"groups_replaced": replaced, "reward": -0.5, "truncated_rate": 1.0}
    return [
        {"step": step, "gradient_norm": norm, "groups_without_signal": share, **others}
        for step, (norm, share) in enumerate(zip(norms, flat, strict=True), start=1)
    ]


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "kl"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stops_and_names_step_and_setting(name, value):
    row = {"step": 7, "loss": 0.1, "gradient_norm": 1.0, "kl": 0.0, name: value}
    with pytest.raises(PipelineError, match=rf"^step 7: {name.replace('_', ' ')} .*training.learning_rate"):
        health.require_finite(row)


def test_numbers_and_a_missing_kl_pass():
    health.require_finite({"step": 1, "loss": 0.0, "gradient_norm": 0.0, "kl": None})


def test_a_gradient_ten_times_the_usual_is_named():
    usual = [1.0, 2.0, 1.5, 1.0, 2.0]
    assert health.warnings(rows([*usual, 14.0])) == []
    (said,) = health.warnings(rows([*usual, 16.0]))
    assert said.startswith("step 6: the gradient explodes: its norm is 16, the median of the last 5 steps was 1.5")
    assert "training.learning_rate" in said
    assert health.warnings(rows([1.0, 1.0, 99.0])) == []  # too early to say what is usual
    assert health.warnings(rows([1.0] * 30 + [9.0] * 15 + [80.0])) == []  # held against the newest 20


def test_a_run_without_signal_is_named_at_once_and_not_at_every_step():
    said = [health.warnings(rows([0.0] * steps, [1.0] * steps)) for steps in range(1, 120)]
    assert [step for step, each in enumerate(said, start=1) if each] == [5, 55, 105]
    assert said[4][0].startswith("step 5: nothing is learned: for 5 steps, all completions of each prompt earned")
    assert "mean now -0.5" in said[4][0] and "training.num_generations" in said[4][0]
    assert health.warnings(rows([1.0] * 5, [1.0, 1.0, 0.9, 1.0, 1.0])) == []
    assert health.warnings(rows([1.0] * 5, [1.0] * 5, replaced=1.0)) == []  # others were drawn in their place


def test_a_gradient_that_stays_0_is_named():
    assert health.warnings(rows([0.0] * 4)) == []
    (said,) = health.warnings(rows([0.0] * 5))
    assert said.startswith("step 5: nothing is learned: for 5 steps the gradient was exactly 0, and 100% of")
    assert "training.max_completion_tokens" in said
