"""SIGTERM (a preempted machine) and Ctrl-C while training: save the newest whole step, then end within seconds."""

import os
import signal
import threading
from collections.abc import Callable

from gsm8k_grpo.common import errors

WAIT_SECONDS = 20.0  # clouds kill a machine 30 s after the signal
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """While entered, a signal makes a second thread call `save` and end the process with 128 + the signal's number.

    Python runs signal handlers in the main thread only, which may be inside a computation for as long as a rollout
    takes. The thread waits for `lock`, which the main thread holds while its state is not whole. After `WAIT_SECONDS`,
    the process ends without saving.
    """

    def __init__(self, save: Callable[[], str]):
        """
        Args:
          save: saves the state, and returns a sentence that says where the run will resume.
        """
        self.lock = threading.Lock()
        self._save, self._signalled = save, False

    def __enter__(self) -> "Preemption":
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former_handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._former_wakeup = signal.set_wakeup_fd(self._write)  # Python writes to it at once, whatever runs
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        return self

    def _note(self, *_: object) -> None:
        self._signalled = True

    def __exit__(self, *_: object) -> None:
        if self._signalled:
            # The main thread may fail meanwhile, for example on a pipe whose reader got the same signal. The other
            # thread still saves, and ends the process.
            self._thread.join()
        signal.set_wakeup_fd(self._former_wakeup)
        for number, handler in self._former_handlers.items():
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
                errors.write_stderr(f"{name}: {self._save()}")
            else:
                errors.write_stderr(
                    f"{name}: the update takes too long to wait for; training resumes from the last checkpoint"
                )
        except BaseException as error:
            errors.write_stderr(f"ERROR: {name}: {error}")
        finally:
            os._exit(128 + byte[0])
