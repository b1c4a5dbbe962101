"""Numbers with their units, for people."""

import humanize


def size_text(size_bytes: float) -> str:
    """Bytes in the unit that reads best: `15.75 GiB`."""
    return humanize.naturalsize(size_bytes, binary=True, format="%.2f")
