"""How run.py and its workers talk, in lines of JSON. Only the worker whose turn it is computes.

A worker reports that it is ready. Then it reads one line for each step (the lengths to force on its completions; of
`answers`, how many prompts to complete) and answers with one line.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path


class Turns:
    """The steps that a contestant makes, and their clock.

    Attributes:
      facts: what else a contestant says of itself, such as the rows of its batches.
    """

    def __init__(self, steps: int, replies: object):
        self.steps, self.facts, self._replies = steps, {}, replies

    def __iter__(self) -> Iterator[list[int] | int]:
        """Yields each step's order from run.py when it is this process's turn; the clock runs until `done`."""
        self._reply({"peak_memory_bytes": peak_memory_bytes()})
        for _ in range(self.steps):
            line = sys.stdin.readline()
            if not line:  # run.py has ended
                sys.exit(1)
            self._phases, self._started, self._computed = {}, time.perf_counter(), time.process_time()
            yield json.loads(line)

    def phase(self, name: str, seconds: float) -> None:
        """Adds to the step's seconds in a phase: `rollout`, `reference` or `update`."""
        self._phases[name] = self._phases.get(name, 0.0) + seconds

    def done(self, lengths: list[int]) -> None:
        """Ends the step; nothing may compute any more.

        Args:
          lengths: tokens of each completion, with the stop token.
        """
        seconds = time.perf_counter() - self._started
        self._reply(
            {
                "seconds": seconds,
                "processor_seconds": time.process_time() - self._computed,
                "phases": self._phases,
                "lengths": [int(length) for length in lengths],
                "peak_memory_bytes": peak_memory_bytes(),
                "facts": self.facts,
            }
        )

    def _reply(self, reply: dict) -> None:
        print(json.dumps(reply), file=self._replies, flush=True)


def peak_memory_bytes() -> int:
    """This process's peak resident memory on Linux. `getrusage` would include its parent's from before exec."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
