"""Progress of long stages: done of total, rate, time left."""

import sys

from tqdm import tqdm

LOG_INTERVAL_SECONDS = 10.0
LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt} {unit}s, {rate_fmt}, {remaining} left{postfix}"


class Progress(tqdm):
    """tqdm on standard error: a bar on a terminal, and in a log a line every `LOG_INTERVAL_SECONDS`."""

    def __init__(self, name: str, total: int, unit: str, done: int = 0):
        """
        Args:
          name: what is going on.
          total: how many units there are.
          unit: the name of one, such as `step`.
          done: how many are done already; they do not count for the rate.
        """
        self._on_terminal = sys.stderr.isatty()
        super().__init__(
            desc=name,
            total=total,
            unit=unit,
            initial=done,
            mininterval=0.1 if self._on_terminal else LOG_INTERVAL_SECONDS,
            maxinterval=LOG_INTERVAL_SECONDS,
            miniters=1,
            bar_format=None if self._on_terminal else LOG_FORMAT,
        )

    def advance(self, count: int = 1, **figures: float) -> None:
        """Counts `count` more units as done; `figures` are shown at the line's end."""
        self.set_postfix(figures, refresh=False)
        self.update(count)
        if self.n >= self.total and not self.disable:
            if self.last_print_n < self.n:
                self.display()
            if self._on_terminal:
                self.close()
            self.disable = True

    @staticmethod
    def status_printer(file):
        """Prints each state: over the last one on a terminal, on a line of its own in a log."""
        if file.isatty():
            return tqdm.status_printer(file)

        def print_status(text: str) -> None:
            if text:
                file.write(f"{text}\n")
                file.flush()

        return print_status
