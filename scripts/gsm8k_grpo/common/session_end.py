"""When the session ends that a stage runs in: a machine that is lent for some hours.

Training and evaluation ask after each step or row, and stop themselves, saved, before that time. Each of them does some
work in every session, so that sessions always get on. The time is not a setting of a stage: it changes no result.
"""

import math
import os
import time

from gsm8k_grpo.common.errors import PipelineError

# Seconds since 1970. Snakemake's process sets it for all its stages (rules/common.smk).
VARIABLE = "GSM8K_GRPO_SESSION_ENDS_AT"
SECONDS_PER_HOUR = 3600.0


def set_session_end(stop_after_hours: float) -> None:
    """Ends the session of this process, and of those that it starts, so many hours from now."""
    os.environ[VARIABLE] = repr(time.time() + stop_after_hours * SECONDS_PER_HOUR)


def session_end(stop_after_hours: float | None) -> float:
    """When to stop, in seconds since 1970; infinity where nothing says so.

    Args:
      stop_after_hours: `--stop-after` of a stage that is started by hand, counted from now; None takes `VARIABLE`.

    Raises:
      PipelineError: no number of hours.
    """
    if stop_after_hours is not None:
        if not stop_after_hours >= 0:  # nan too
            raise PipelineError(f"--stop-after: expected hours, 0 or more, found {stop_after_hours:g}")
        return time.time() + stop_after_hours * SECONDS_PER_HOUR
    return float(os.environ.get(VARIABLE) or math.inf)


def comes_within(end: float, seconds: float = 0.0) -> bool:
    """Whether a session's end is at most so many seconds away, or past."""
    return time.time() + seconds >= end
