"""The exceptions that users see, and how an entry point ends on them."""

import contextlib
import errno
import os
import re
import resource
import sys
from collections.abc import Callable

# What a stage exits with that stopped itself before the session's end (EX_TEMPFAIL of sysexits.h: try again later).
NOT_FINISHED_STATUS = 75
_stderr: int | None = None  # the descriptor of standard error while that is silent


# What Python, XLA, LLVM, the linker and OpenBLAS say where memory ran out.
_OUT_OF_MEMORY = re.compile(
    "out of memory|RESOURCE_EXHAUSTED|cannot allocate|unable to allocate|memory allocation|bad_alloc|MemoryError"
    "|failed to map segment|can't start new thread|pthread_create",
    re.IGNORECASE,
)


def says_out_of_memory(text: str) -> bool:
    """Whether a message is of the kind that libraries print where memory, or a thread's, cannot be had."""
    return bool(_OUT_OF_MEMORY.search(text))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out."""
    return isinstance(error, MemoryError) or says_out_of_memory(str(error))


def memory_advice() -> str:
    """What to do where memory ran out; names the limit that `ulimit -v` has set, if there is one."""
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    raised = (
        f"raise the limit of {limit_bytes / 2**30:.1f} GiB (ulimit -v), "
        if limit_bytes != resource.RLIM_INFINITY
        else ""
    )
    return (
        f"{raised}lower training.micro_batch_completions, training.rollout_batch_completions, "
        "training.num_generations, evaluation.batch_size or the token limits, or take a larger machine"
    )


class PipelineError(Exception):
    """Bad input, said in one sentence: what is wrong (file, row or key), what was expected, how to mend it."""


class NotFinished(Exception):
    """A stage stopped itself before the session's end; the text says what is saved."""


@contextlib.contextmanager
def silent_stderr():
    """While entered, and after an exception for good, only `exit_on_error` still reaches standard error.

    For libraries whose threads print tracebacks of their own beside the exception that they raise.
    """
    global _stderr
    sys.stderr.flush()
    _stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    yield
    sys.stderr.flush()
    os.dup2(_stderr, 2)
    os.close(_stderr)
    _stderr = None


def write_stderr(text: str) -> None:
    """A line on standard error, also while that is silent; nothing where nobody reads it any more."""
    with contextlib.suppress(OSError):
        os.write(2 if _stderr is None else _stderr, f"{text}\n".encode())


def exit_on_error(stage: Callable[[], None]) -> None:
    """Runs one entry point; an expected failure prints one line and exits with 1 instead of a traceback.

    A stage that stopped itself before the session's end says so and exits with `NOT_FINISHED_STATUS`. Unexpected
    exceptions keep their traceback: they are faults of ours, not of the input.

    A full disk is handled here for artifacts, in `models/storage.py` for what Orbax writes, in
    `huggingface/weight_writing.py` for exports, in `data/retries.py` for downloads, in `common/stage_runner.py` for the
    log, in `scripts/stage.py` for the mark, and in `preflight/disk.py` before Snakemake starts.
    """
    try:
        stage()
    except NotFinished as stopped:
        write_stderr(f"NOT FINISHED (stop_after_hours): {stopped}; run the same command again to go on")
        sys.exit(NOT_FINISHED_STATUS)
    except PipelineError as error:
        if _stderr is not None:
            write_stderr(f"ERROR: {error}")
            os._exit(1)
        sys.exit(f"ERROR: {error}")
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        detail = str(error).splitlines()[0] if str(error) else "allocation failed"
        sys.exit(f"ERROR: out of memory ({detail}): {memory_advice()}")
    except OSError as error:
        if error.errno == errno.ENOMEM:
            sys.exit(f"ERROR: out of memory ({error}): {memory_advice()}")
        if error.errno not in (
            errno.EACCES,
            errno.EROFS,
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EPERM,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.EEXIST,
        ):
            raise
        sys.exit(
            f"ERROR: {error.filename or 'an output file'} cannot be written ({error.strerror}): "
            "free some space or make the folder writable, then run the same command again"
        )
