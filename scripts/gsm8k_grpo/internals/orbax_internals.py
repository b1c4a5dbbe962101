"""Parts of Orbax that behave otherwise than we need, each with the reason. All were seen in Orbax 0.12.8."""

import errno
import functools
import logging
import os
import sys
from pathlib import Path
from typing import Any


def stored_tree(checkpointer: Any, folder: Path) -> dict:
    """Reads the metadata of a checkpoint's arrays as nested dicts, without a warning about a missing file.

    Tunix saves checkpoints without Orbax's `_CHECKPOINT_METADATA`, and Orbax warns of it through `absl` on each read.

    Raises:
      OSError, ValueError, AttributeError: `folder` holds no checkpoint.
    """
    logging.disable(logging.WARNING)
    try:
        return checkpointer.metadata(folder).item_metadata.tree
    finally:
        logging.disable(logging.NOTSET)


def write_failure(error: BaseException) -> str:
    """Why Orbax could not write: TensorStore says it somewhere in a long message, in the system's words."""
    reasons = (os.strerror(number) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES))
    said = next((reason for reason in reasons if reason in str(error)), None)
    return said or (str(error) or type(error).__name__).strip().splitlines()[0][:200]


@functools.cache
def hide_closed_event_loops() -> None:
    """Keeps TensorStore's threads from printing tracebacks beside the error of a damaged checkpoint.

    Orbax closes its event loop at the first array that cannot be read. The threads that read the others then report to
    it in vain, and each prints so.
    """
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        if (unraisable.exc_type, str(unraisable.exc_value)) != (RuntimeError, "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = report_others
