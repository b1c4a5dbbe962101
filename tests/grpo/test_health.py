"""A run that goes wrong stops or warns, and names the step, the value and the settings to change."""

import math

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.grpo import health


def rows(norms, without_signal=None, replaced=0.0):
    without_signal = without_signal or [0.0] * len(norms)
    others = {"groups_replaced": replaced, "reward": -0.5, "truncated_rate": 1.0}
    return [
        {"step": step, "gradient_norm": norm, "groups_without_signal": share, **others}
        for step, (norm, share) in enumerate(zip(norms, without_signal, strict=True), start=1)
    ]


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "kl"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_and_names_step_and_setting(name, value):
    row = {"step": 7, "loss": 0.1, "gradient_norm": 1.0, "kl": 0.0, name: value}
    with pytest.raises(PipelineError, match=rf"^step 7: {name.replace('_', ' ')} .*training.learning_rate"):
        health.require_finite(row)


def test_finite_values_and_a_missing_kl_pass():
    health.require_finite({"step": 1, "loss": 0.0, "gradient_norm": 0.0, "kl": None})


def test_a_gradient_of_ten_times_the_median_is_warned_about():
    earlier = [1.0, 2.0, 1.5, 1.0, 2.0]
    assert health.warnings(rows([*earlier, 14.0])) == []
    (message,) = health.warnings(rows([*earlier, 16.0]))
    assert message.startswith("step 6: the gradient explodes: its norm is 16, the median of the last 5 steps was 1.5")
    assert "training.learning_rate" in message
    assert health.warnings(rows([1.0, 1.0, 99.0])) == []  # too few steps for a median
    assert health.warnings(rows([1.0] * 30 + [9.0] * 15 + [80.0])) == []  # compared with the newest 20


def test_a_run_without_signal_is_warned_about_soon_and_not_in_every_step():
    messages = [health.warnings(rows([0.0] * steps, [1.0] * steps)) for steps in range(1, 120)]
    assert [step for step, each in enumerate(messages, start=1) if each] == [5, 55, 105]
    assert messages[4][0].startswith("step 5: nothing is learned: for 5 steps, all completions of each prompt earned")
    assert "mean now -0.5" in messages[4][0] and "training.num_generations" in messages[4][0]
    assert health.warnings(rows([1.0] * 5, [1.0, 1.0, 0.9, 1.0, 1.0])) == []
    assert health.warnings(rows([1.0] * 5, [1.0] * 5, replaced=1.0)) == []  # all were replaced


def test_a_gradient_that_stays_0_is_warned_about():
    assert health.warnings(rows([0.0] * 4)) == []
    (message,) = health.warnings(rows([0.0] * 5))
    assert message.startswith("step 5: nothing is learned: for 5 steps the gradient was exactly 0, and 100% of")
    assert "training.max_completion_tokens" in message
