"""Numbers as the page prints them, and sentences that follow them. Nothing is measured here."""

import re
from collections.abc import Mapping

# What no page can show as text: control characters, marks that turn the direction of all that follows or have no width,
# line ends that only JavaScript knows, halves of characters.
INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
LONGEST_SHOWN_CHARACTERS = 4000


def percent(value: float) -> str:
    """A rate as per cent with one decimal."""
    return f"{100 * value:.1f} %".replace("-", "−")


def tenth(value: float | None) -> str:
    """The end of an interval as per cent without the sign; nothing where there is none."""
    return "" if value is None else f"{100 * value:.1f}".replace("-", "−")


def points(value: float) -> str:
    """A difference of rates in percentage points, with its sign unless it rounds to nothing."""
    said = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if said in ("+0.0", "−0.0") else said


def interval_ends(difference: Mapping) -> str:
    """The interval of a difference of rates, in percentage points."""
    return f"{points(difference['low'])} to {points(difference['high'])}"


def p_value(value: float) -> str:
    """A p-value as papers print it."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.4f}" if value < 0.1 else f"p = {value:.2f}"


def decimals(value: float, places: int) -> str:
    """A number with so many decimals."""
    return f"{value:,.{places}f}".replace("-", "−")


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if 0 < seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def gibibytes(size: float) -> str:
    """Bytes in GiB, with two decimals or, where that would be nothing, in MiB."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:,.1f} MiB"


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def escape_invisible(text: str) -> str:
    """Text from outside as text that breaks nothing: control and direction marks as their codes."""
    return INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def shorten_visible(text: str) -> str:
    """Model output: as `coded`, and megabytes cut."""
    shown, left = escape_invisible(text[:LONGEST_SHOWN_CHARACTERS]), len(text) - LONGEST_SHOWN_CHARACTERS
    return f"{shown} … and {left:,} characters more" if left > 0 else shown


def published_rate(value: float | list | None, signed: bool = False) -> str:
    """A published share, or range of shares, in per cent (or, signed, in points)."""
    if value is None:
        return "–"
    ends = [
        f"{100 * end:{'+' if signed else ''}.4g}" for end in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return (" to ".join(ends) + (" points" if signed else " %")).replace("-", "−")
