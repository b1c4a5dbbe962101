"""SIGTERM (a preempted machine) and Ctrl-C while training: save what is whole, then end within seconds."""

import os
import signal
import threading
from collections.abc import Callable

from gsm8k_grpo.common import errors

WAIT_SECONDS = 20.0  # clouds give 30 from the signal to the end
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """While entered, a signal makes a thread of its own call `stopped`, then ends the process with 128 + its number.

    A thread, because the main one may be inside of a computation for as long as a rollout takes, where no Python
    handler runs. It waits for `lock`, which the main thread holds while its state is not whole; if that takes too long,
    the process ends without.
    """

    def __init__(self, stopped: Callable[[], str]):
        """
        Args:
          stopped: saves the state and says, in a sentence, from where the run goes on.
        """
        self.lock = threading.Lock()
        self._stopped, self._signalled = stopped, False

    def __enter__(self) -> "Preemption":
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._former_descriptor = signal.set_wakeup_fd(self._write)  # written to at once, wherever the main thread is
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        return self

    def _note(self, *_: object) -> None:
        self._signalled = True

    def __exit__(self, *_: object) -> None:
        if self._signalled:
            # The main thread may have failed since, of a pipe whose reader was ended by the same signal; the other one
            # saves, and ends the process.
            self._thread.join()
        signal.set_wakeup_fd(self._former_descriptor)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        os.close(self._write)  # ends the thread

    def _wait(self) -> None:
        byte = os.read(self._read, 1)
        if not byte:
            os.close(self._read)
            return
        name = signal.Signals(byte[0]).name
        try:
            if self.lock.acquire(timeout=WAIT_SECONDS):
                errors.write_stderr(f"{name}: {self._stopped()}")
            else:
                errors.write_stderr(f"{name}: the update takes too long to wait for; the last checkpoint stands")
        except BaseException as error:
            errors.write_stderr(f"ERROR: {name}: {error}")
        finally:
            os._exit(128 + byte[0])
