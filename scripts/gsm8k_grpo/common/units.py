"""Numbers with their units, for people."""

import humanize


def duration_text(seconds: float) -> str:
    """A time to come, to the minute, or to the second where it is less than that: `37 hours and 12 minutes`."""
    unit = "minutes" if seconds >= 60 else "seconds"
    return humanize.precisedelta(seconds, minimum_unit=unit, suppress=["days", "months", "years"], format="%.0f")


def size_text(size_bytes: float) -> str:
    """Bytes in the unit that reads best: `15.75 GiB`."""
    return humanize.naturalsize(size_bytes, binary=True, format="%.2f")
