"""Progress lines, against a clock that the test sets."""

from types import SimpleNamespace

import pytest

from gsm8k_grpo.common import progress
from gsm8k_grpo.common.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_lines_come_at_the_first_unit_at_intervals_and_at_the_last(clock, capsys):
    shown = Progress("train", 10, "steps", every_seconds=10)
    clock.seconds = 60  # the first step compiles for a minute; the rate must not count it
    shown.advance(reward=1.23456)
    for _ in range(9):
        clock.seconds += 4
        shown.advance(reward=2, kl=0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "train: 1/10 steps, compiled, reward 1.23",
        "train: 4/10 steps, 0.25 steps/s, 24 s left, reward 2, kl 0.5",
        "train: 7/10 steps, 0.25 steps/s, 12 s left, reward 2, kl 0.5",
        "train: 10/10 steps, 0.25 steps/s, 0 s left, reward 2, kl 0.5",
    ]


def test_a_resumed_stage_counts_on_and_rates_only_its_own_units(clock, capsys):
    shown = Progress("evaluate", 100, "rows", done=50, every_seconds=0)
    shown.advance(10)
    clock.seconds = 2
    shown.advance(20)
    assert capsys.readouterr().err.splitlines() == [
        "evaluate: 60/100 rows, compiled",
        "evaluate: 80/100 rows, 10.00 rows/s, 2 s left",
    ]
