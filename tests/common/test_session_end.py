"""When a session ends: by Snakemake's setting, by hand, or never."""

import math
import time

import pytest

from gsm8k_grpo.common import session_end
from gsm8k_grpo.common.errors import PipelineError


def test_a_session_ends_so_many_hours_after_snakemake_began_and_by_hand_after_the_stage_began(monkeypatch):
    monkeypatch.delenv(session_end.VARIABLE, raising=False)
    assert session_end.session_end(None) == math.inf and not session_end.comes_within(math.inf, 1e12)
    monkeypatch.setenv(session_end.VARIABLE, "0")  # restored afterwards
    before = time.time()
    session_end.set_session_end(2.0)
    ends = session_end.session_end(None)
    assert before + 7200 <= ends <= time.time() + 7200
    assert not session_end.comes_within(ends, 3600) and session_end.comes_within(ends, 7201)
    assert session_end.session_end(1.0) <= time.time() + 3600  # by hand
    assert session_end.comes_within(session_end.session_end(0.0))


@pytest.mark.parametrize("hours", [-1.0, float("nan")])
def test_hours_by_hand_are_a_number(hours):
    with pytest.raises(PipelineError, match=f"--stop-after: expected hours, 0 or more, found {hours:g}"):
        session_end.session_end(hours)
