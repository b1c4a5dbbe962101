"""A run that goes wrong stops or warns, and names the step, the value and the settings to change."""

import math
import random

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.grpo import health


def rows(norms, without_signal=None, replaced=0.0):
    without_signal = without_signal or [0.0] * len(norms)
    others = {"groups_replaced": replaced, "reward": -0.5, "truncated_rate": 1.0, "unsampled_mass": 0.0}
    others |= {"reasoning_words": 0.0, "calculations": 0.0, "calculated_answers": 0.0}
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
    assert messages[4][0].startswith("step 5: nothing is learned: for 5 steps, no group has had a signal")
    assert "mean now -0.5" in messages[4][0] and "training.num_generations" in messages[4][0]
    assert health.warnings(rows([1.0] * 5, [1.0, 1.0, 0.9, 1.0, 1.0])) == []
    assert health.warnings(rows([1.0] * 5, [1.0] * 5, replaced=1.0)) == []  # all were replaced


def test_a_gradient_that_stays_0_is_warned_about():
    assert health.warnings(rows([0.0] * 4)) == []
    (message,) = health.warnings(rows([0.0] * 5))
    assert message.startswith("step 5: nothing is learned: for 5 steps the gradient was exactly 0, and 100% of")
    assert "training.max_completion_tokens" in message


def watched(words=1.0, calculations=1.0, calculated=0.9, reward=0.0, unsampled=0.0, steps=60):
    """Rows of a run; each figure is a number, or a function of the step."""
    figures = {"reasoning_words": words, "calculations": calculations, "calculated_answers": calculated}
    figures |= {"reward": reward, "unsampled_mass": unsampled}
    return [
        row | {name: value(row["step"]) if callable(value) else value for name, value in figures.items()}
        for row in rows([1.0] * steps)
    ]


def warned_steps(history):
    """The steps with a warning, each with its warnings."""
    found = {end: health.warnings(history[:end]) for end in range(1, len(history) + 1)}
    return {step: messages for step, messages in found.items() if messages}


def falls(before, after, step):
    return lambda now: before if now < step else after


@pytest.mark.parametrize("name", ["words", "calculations"])
def test_reasoning_that_collapses_is_warned_about_with_the_step(name):
    figures = {"words": 40.0, "calculations": 3.0}
    history = watched(**figures | {name: falls(figures[name], 0.0, 21)}, reward=lambda step: step / 10, steps=120)
    warned = warned_steps(history)
    # The mean of five steps is below a third when four of them are at 0; then every 50 steps.
    assert list(warned) == [24, 50, 100]
    (message,) = warned[24]
    assert message.startswith("step 24: the reasoning collapses: a completion of the last 5 steps has ")
    assert {"words": "has 8.0 words", "calculations": "and 0.6 calculations"}[name] in message
    assert "one of the first 5 had 40.0 and 3.0, and the mean reward is no lower (0.3, now 2.2)" in message
    assert "training.rewards" in message and "samples.jsonl" in message


def test_reasoning_that_only_becomes_briefer_or_falls_with_the_reward_is_no_collapse():
    assert not warned_steps(watched(words=falls(40.0, 16.0, 21), calculations=falls(3.0, 1.2, 21)))
    assert not warned_steps(watched(words=falls(40.0, 0.0, 21), reward=falls(2.0, 1.0, 21)))
    assert not warned_steps(watched(words=falls(0.4, 0.0, 21), calculations=falls(0.4, 0.0, 21)))  # hardly any before
    assert not warned_steps(watched(words=falls(40.0, 0.0, 21), steps=23))


def test_reasoning_that_no_longer_leads_to_the_answer_is_warned_about_with_the_step():
    # The base model misses the tags, so that few answers are calculated at first.
    share = lambda now: 0.2 if now <= 10 else falls(0.9, 0.05, 41)(now)  # noqa: E731
    warned = warned_steps(watched(calculated=share, reward=lambda step: step / 10, steps=120))
    # The mean of ten steps is below a third of 0.9 when eight of them are at 0.05; then every 50 steps.
    assert list(warned) == [48, 50, 100]
    (message,) = warned[48]
    assert message.startswith("step 48: the reasoning no longer leads to the answer: the last calculation gives the ")
    assert "in 22% of the completions of the last 10 steps, and did in 90% of those of steps 11 to 20" in message
    assert "the mean reward is no lower (1.55, now 4.35)" in message and "samples.jsonl" in message


def test_calculated_answers_that_fall_little_or_with_the_reward_or_were_few_are_not_warned_about():
    assert not warned_steps(watched(calculated=falls(0.9, 0.35, 21)))
    assert not warned_steps(watched(calculated=falls(0.9, 0.0, 21), reward=falls(2.0, 1.0, 21)))
    assert not warned_steps(watched(calculated=falls(0.45, 0.0, 21)))


def test_calculated_answers_of_few_completions_vary_without_a_warning():
    rng = random.Random(0)
    for level in (0.2, 0.35, 0.5, 0.7):
        history = watched(
            calculated=lambda _: sum(rng.random() < level for _ in range(8)) / 8,  # noqa: B023
            reward=lambda _: rng.random(),
            steps=1000,
        )
        assert not any(health._answers_uncalculated(history[:end]) for end in range(1, 1001)), level


def test_reasoning_that_is_gone_calculates_no_answer_and_is_warned_about_once():
    gone = falls(1.0, 0.0, 21)
    warned = warned_steps(watched(words=gone, calculations=gone, calculated=gone, steps=40))
    (message,) = warned.pop(24)
    assert not warned and message.startswith("step 24: the reasoning collapses: ")


def test_sampling_that_leaves_out_more_than_one_per_cent_is_warned_about():
    assert not warned_steps(watched(unsampled=0.01))
    warned = warned_steps(watched(unsampled=lambda step: 0.0234 if step in (7, 8, 30) else 0.005))
    assert list(warned) == [7]  # step 30 is less than 50 steps later
    (message,) = warned[7]
    assert message.startswith("step 7: sampling leaves out much: training.top_k and training.top_p leave out 2.34% of")
    assert list(warned_steps(watched(unsampled=0.02, steps=110))) == [1, 50, 100]
