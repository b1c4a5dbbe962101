"""Progress of long stages as plain lines, legible in a log file: done of total, rate, time left."""

import sys
import time


class Progress:
    """Prints a line at the first unit, then every `every_seconds`, and at the last."""

    def __init__(self, name: str, total: int, unit: str, done: int = 0, every_seconds: float = 10.0):
        self.name, self.total, self.unit, self.every_seconds = name, total, unit, every_seconds
        self.first = self.done = done
        self.printed = time.monotonic()
        self.start_measured = None

    def advance(self, count: int = 1, **figures: float) -> None:
        """Counts `count` more units as done; `figures` are shown at the line's end."""
        self.done += count
        now = time.monotonic()
        if self.start_measured is None:
            # The first unit compiles; the rate is measured from there on, or the time left would be nonsense.
            self.start_measured, self.first = now, self.done
        elif self.done < self.total and now - self.printed < self.every_seconds:
            return
        self.printed = now
        elapsed = now - self.start_measured
        rate = (self.done - self.first) / elapsed if elapsed > 0 else 0.0
        timing = f"{rate:.2f} {self.unit}/s, {(self.total - self.done) / rate:.0f} s left" if rate else "compiled"
        shown = "".join(f", {key} {value:.3g}" for key, value in figures.items())
        print(f"{self.name}: {self.done}/{self.total} {self.unit}, {timing}{shown}", file=sys.stderr, flush=True)
