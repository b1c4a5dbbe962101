"""The run of one stage: its log, the mark of its failure, and the check that it wrote what it must write.

A stage does not run where its record says that it would make just what is there (`stage_record.py`).

A mark is left before the stage starts and taken away when it succeeds, so a full disk or a kill cannot hide a failure.
The log outlives a signal to the whole process group: a stage that is told to end may still save and say so.
"""

import contextlib
import os
import resource
import shlex
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

from gsm8k_grpo.common import errors
from gsm8k_grpo.common.stage_record import StageRecord

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TAIL_BYTES = 2**16  # of what a stage printed, where a sentence on its end looks for the reason
CLOCK_SKEW_SECONDS = 60  # at most, between machines that share a file system
SHOWN_DIFFERENCES = 8
NOT_FINISHED = "not finished"  # in the mark of a stage that stopped itself before the session's end


def run_and_check(
    command: list[str], log_file: Path, mark: Path, inputs: list[Path], outputs: list[Path], record: StageRecord
) -> int:
    """Runs a stage, or takes its outputs over; returns its status, or 1 where it did not write an output.

    Args:
      command: the stage.
      log_file: gets everything that the stage prints.
      mark: is there while the stage runs, and stays when it fails.
      inputs: must not be dated in the future: then the stage does not run.
      outputs: must be written by the stage, not by an earlier one.
      record: of the stage; written when it succeeds.
    """
    before = mark.with_name(f"{mark.name}.before")  # the mark of an earlier failure
    mark.parent.mkdir(parents=True, exist_ok=True)
    if mark.exists():
        mark.replace(before)
    mark.write_text(f"{time.time_ns()}\n")
    started = mark.stat().st_mtime_ns
    with open(log_file, "wb", buffering=0) as log:
        error = _describe_future(inputs)
        if error:
            status = 1
        elif _take_over(record, outputs, log.fileno()):
            status = 0
        else:
            status, printed = _run_and_log(command, log.fileno())
            error = _describe_end(status, printed)
            unwritten = [path for path in outputs if not path.exists() or path.stat().st_mtime_ns < started]
            if status == 0 and unwritten:
                status, error = 1, f"the stage ended without an error but did not write {unwritten[0]}"
            if status == 0:
                record.write(outputs)
        if error:
            _write(f"ERROR: {error}\n".encode(), log.fileno())
    if status == errors.NOT_FINISHED_STATUS:
        with contextlib.suppress(OSError):
            mark.write_text(f"{time.time_ns()} {NOT_FINISHED}\n")
    if status == 0:
        if before.exists():
            before.replace(mark)
        else:
            mark.unlink()
    return status if status >= 0 else 128 - status


def _describe_future(inputs: list[Path]) -> str | None:
    """A sentence on inputs that are dated in the future, or None; waits where it is only clocks that differ.

    After a stage, Snakemake compares times. Where an input is newer than an output, it deletes what the stage made.
    """
    times = {path: path.stat().st_mtime for path in inputs if path.exists()}
    ahead_seconds = max(times.values(), default=0) - time.time()
    if 0 < ahead_seconds <= CLOCK_SKEW_SECONDS:
        time.sleep(ahead_seconds)
    now = time.time()
    future = [path for path, modified in times.items() if modified > now]
    if not future:
        return None
    dated = datetime.fromtimestamp(times[future[0]]).isoformat(sep=" ", timespec="seconds")
    return (
        f"{future[0]} is dated {dated}, in the future ({len(future)} such inputs), so the stage did not run: Snakemake "
        "would delete what it makes; if this machine's clock is right, run touch "
        f"{shlex.join(map(str, future))} and then the same command again"
    )


def _take_over(record: StageRecord, outputs: list[Path], log: int) -> bool:
    """Whether outputs that are there stay as they are. Says so; says what differs where they are made again."""
    differences = None if record.is_forced(outputs) else record.differences(outputs)
    if differences:
        shown = "; ".join(differences[:SHOWN_DIFFERENCES])
        more = len(differences) - SHOWN_DIFFERENCES
        shown += f"; and {more} more" if more > 0 else ""
        _write(f"made again, because it differs from its record {record.path}: {shown}\n".encode(), log)
    if differences != []:
        return False
    for path in outputs:
        os.utime(path)  # as if just written: Snakemake finds them newer than their inputs
    _write(f"taken over: {outputs[0]} has been made from the same settings, code and inputs\n".encode(), log)
    return True


def _run_and_log(command: list[str], log: int) -> tuple[int, bytes]:
    """Runs a command and copies what it prints to a log too.

    Returns its status, or minus the signal that ended it, and the end of what it printed.
    """
    default = {number: signal.getsignal(number) for number in SIGNALS}
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in SIGNALS],
    )
    # A signal to this process alone is passed on; one to the whole group reaches the stage by itself.
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    printed = b""
    while block := os.read(child.stdout.fileno(), 2**16):
        _write(block, log)
        printed = (printed + block)[-TAIL_BYTES:]
    status = child.wait()
    for number, handler in default.items():
        signal.signal(number, handler)
    return status, printed


def _describe_end(status: int, printed: bytes) -> str | None:
    """A sentence on a stage that failed without one of its own: a signal, or a library that ended the process.

    Args:
      status: minus the number of a signal, or the exit status.
      printed: the end of what the stage printed.
    """
    lines = printed.decode(errors="replace").splitlines()
    if status == 0 or (status > 0 and any(line.startswith("ERROR: ") for line in lines)):
        return None
    reason = next((line.strip() for line in lines if errors.says_out_of_memory(line)), None)
    if status > 0:
        return f"the stage ran out of memory ({reason[:200]}): {errors.memory_advice()}" if reason else None
    name = signal.Signals(-status).name
    gibibytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # kilobytes on Linux
    used = f"it had used up to {gibibytes:.1f} GiB; {errors.memory_advice()}"
    if -status == signal.SIGKILL:
        return f"the stage was killed ({name}), perhaps because memory ran out: {used}"
    if reason:
        return f"the stage was ended by {name}, because memory ran out ({reason[:200]}): {used}"
    return f"the stage was ended by {name}; if it ended itself, the lines above say why"


def _write(block: bytes, log: int) -> None:
    """Writes bytes to standard output and the log. If one of them is full or gone, the other still gets them."""
    for descriptor in (log, 1):
        with contextlib.suppress(OSError):
            os.write(descriptor, block)
