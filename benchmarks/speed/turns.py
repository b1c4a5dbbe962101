"""How run.py and its workers talk, by lines of JSON: only the worker whose turn it is computes.

A worker says that it is ready, then reads one line a step (the lengths that its completions are forced to, or null for
ours, which makes them) and answers with one.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path


class Turns:
    """The steps that a contestant makes, with its clock."""

    def __init__(self, steps: int, replies: object):
        self.steps, self._replies = steps, replies

    def __iter__(self) -> Iterator[list[int] | None]:
        """For each step the forced lengths, when it is this process's turn; the clock runs until `done`."""
        self._reply({"peak_memory_bytes": peak_memory_bytes()})
        for _ in range(self.steps):
            line = sys.stdin.readline()
            if not line:  # the parent has gone
                sys.exit(1)
            self._phases, self._started, self._computed = {}, time.perf_counter(), time.process_time()
            yield json.loads(line)

    def phase(self, name: str, seconds: float) -> None:
        """Adds to the step's seconds in a phase: `rollout`, `reference` or `update`."""
        self._phases[name] = self._phases.get(name, 0.0) + seconds

    def done(self, lengths: list[int]) -> None:
        """The step is over, and nothing computes any more.

        Args:
          lengths: tokens of each completion, the stop token included.
        """
        seconds = time.perf_counter() - self._started
        self._reply(
            {
                "seconds": seconds,
                "processor_seconds": time.process_time() - self._computed,
                "phases": self._phases,
                "lengths": [int(length) for length in lengths],
                "peak_memory_bytes": peak_memory_bytes(),
            }
        )

    def _reply(self, reply: dict) -> None:
        print(json.dumps(reply), file=self._replies, flush=True)


def peak_memory_bytes() -> int:
    """The most memory that this process has held (Linux). `getrusage` would count its parent's from before exec."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
