"""A user's own rewards run in a process of their own, so that they cannot take the stage with them.

The process is started once, and takes one batch after the other. An endless loop, a crash or `os._exit` ends that
process alone, and the stage says so.
"""

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import custom_worker

END_SECONDS = 1.0  # that the process has to end by itself


def score(name: str, rows: list[dict], completions: list[str], root: Path, limit_seconds: float | None) -> list[float]:
    """One reward of the user's own for each completion.

    Args:
      name: `path/to/file.py:function`.
      rows: the row of each of the B completions, with `id`, `prompt` and `answer`.
      completions: B texts.
      root: the project's folder.
      limit_seconds: how long the batch may take; None is no limit.

    Returns:
      B finite numbers.

    Raises:
      PipelineError: the function raised an exception, returned something else, took too long or ended its process;
        names the function and the rows.
    """
    sent = [{key: row[key] for key in ("id", "prompt", "answer")} for row in rows]
    batch = f"the {len(rows)} completions of the rows {rows[0]['id']} to {rows[-1]['id']}"
    return _ask(name, root, limit_seconds, batch, sent, completions)


def load(name: str, root: Path, limit_seconds: float | None) -> None:
    """Runs the file of a reward, so that its faults show before the first batch.

    Raises:
      PipelineError: the file fails, or its function cannot be called with what rewards get.
    """
    _ask(name, root, limit_seconds, "the start of its file")


def _ask(
    name: str,
    root: Path,
    limit_seconds: float | None,
    what: str,
    rows: list[dict] | None = None,
    completions: list[str] | None = None,
) -> list[float]:
    """What the process answers to a request; `what` names the request in errors."""
    process, answer = _process(), None
    try:
        request = {"name": name, "root": str(root), "rows": rows, "completions": completions}
        answer = process.ask(request, limit_seconds)
    except TimeoutError:
        raise PipelineError(
            f"training.rewards: {name} took longer than {limit_seconds:g} s for {what}, so its process was ended; make "
            "it faster, or raise training.custom_reward_limit_seconds"
        ) from None
    except EOFError:
        raise PipelineError(
            f"training.rewards: {name} ended its process ({process.describe_end()}) at {what}; a reward must return"
        ) from None
    finally:
        if answer is None:
            process.close(wait_seconds=0)
            _process.cache_clear()
    if "fault" in answer:
        raise PipelineError(answer["fault"])
    return answer["values"]


@functools.cache
def _process() -> "_Process":
    """The one process of this stage."""
    return _Process()


class _Process:
    """The process, and the socket to it."""

    def __init__(self):
        self._channel, theirs = socket.socketpair()
        with theirs:
            # A session of its own: a signal to the stage's group leaves it alone, so that the stage can still save. No
            # accelerator: that is the stage's.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-u", custom_worker.__file__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )
        self._answers = self._channel.makefile("rb")
        atexit.register(self.close)

    def ask(self, request: dict, limit_seconds: float | None) -> dict:
        """The answer to a request.

        Raises:
          TimeoutError: there was none within the limit.
          EOFError: the process ended.
        """
        self._channel.settimeout(limit_seconds)
        try:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            answer = self._answers.readline()
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None
        if not answer:
            raise EOFError
        return json.loads(answer)

    def describe_end(self) -> str:
        """How the process ended."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its files"
        if status >= 0:
            return f"status {status}"
        reason = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
        return f"{signal.Signals(-status).name}{reason}"

    def close(self, wait_seconds: float = END_SECONDS) -> None:
        """Ends the process, and what it has started; first it has some time to end by itself."""
        atexit.unregister(self.close)
        self._answers.close()
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
