"""The one exception that users see, and how an entry point ends on it."""

import errno
import sys
from collections.abc import Callable


class PipelineError(Exception):
    """Bad input, said in one sentence: what is wrong (file, row or key), what was expected, how to mend it."""


def run_stage(stage: Callable[[], None]) -> None:
    """Runs one entry point; an expected failure prints one line and exits with 1 instead of a traceback.

    Unexpected exceptions keep their traceback: they are faults of ours, not of the input.
    """
    try:
        stage()
    except PipelineError as error:
        sys.exit(f"ERROR: {error}")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EPERM, errno.ENOTDIR):
            raise
        sys.exit(
            f"ERROR: {error.filename or 'an output file'} cannot be written ({error.strerror}): "
            "free some space or make the folder writable, then run the same command again"
        )
    except (MemoryError, RuntimeError) as error:
        # XLA reports exhausted memory as a RuntimeError subclass whose text starts with this word.
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        detail = str(error).splitlines()[0] if str(error) else "allocation failed"
        sys.exit(
            f"ERROR: out of memory ({detail}): lower training.micro_batch_prompts, training.num_generations, "
            "evaluation.batch_size or the token limits"
        )
