"""Progress of long stages, as a log shows it."""

import re

from gsm8k_grpo.common import progress
from gsm8k_grpo.common.progress import Progress

LINE = re.compile(r"train: (\d+)/10 steps, .*step.*, (\d\d:\d\d|\?) left(.*)")


def test_a_log_gets_a_line_at_the_beginning_at_intervals_and_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.0)
    shown = Progress("train", 10, "step", done=2)
    for step in range(8):
        shown.advance(reward=step + 0.123456, kl=0.5)
    out, err = capsys.readouterr()
    assert out == "" and "\r" not in err
    lines = [LINE.fullmatch(line) for line in err.splitlines()]
    assert all(lines) and [int(line[1]) for line in lines][:3] == [2, 3, 4]
    assert (lines[-1][1], lines[-1][2], lines[-1][3]) == ("10", "00:00", ", reward=7.12, kl=0.5")


def test_between_intervals_a_log_gets_nothing(capsys):
    shown = Progress("train", 10, "step")
    for _ in range(9):
        shown.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1
    shown.advance(0)
    shown.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1
