"""Parts of Orbax that behave otherwise than we need, each with the reason. All were seen in Orbax 0.12.8."""

import logging
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
