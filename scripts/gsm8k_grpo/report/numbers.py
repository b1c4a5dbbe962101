"""Numbers and foreign text as the page prints them."""

import re
from collections.abc import Mapping

# Characters without a glyph: control characters, marks that change the direction of the text or have no width, line
# ends that only JavaScript knows, halves of characters.
INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
LONGEST_SHOWN_CHARACTERS = 4000


def percent(value: float) -> str:
    """A rate in per cent with one decimal."""
    return f"{100 * value:.1f} %".replace("-", "−")


def tenth(value: float | None) -> str:
    """One end of an interval in per cent without the sign; empty for None."""
    return "" if value is None else f"{100 * value:.1f}".replace("-", "−")


def points(value: float) -> str:
    """A difference of rates in percentage points, signed unless it rounds to 0."""
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def interval_ends(difference: Mapping) -> str:
    """The interval of a difference of rates, in percentage points."""
    return f"{points(difference['low'])} to {points(difference['high'])}"


def p_value(value: float) -> str:
    """A p-value as papers print it."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.4f}" if value < 0.1 else f"p = {value:.2f}"


def decimals(value: float, places: int) -> str:
    """A number with that many decimals."""
    return f"{value:,.{places}f}".replace("-", "−")


def count(value: float) -> str:
    """A whole number with a comma between thousands."""
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if 0 < seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def escape_invisible(text: str) -> str:
    """Foreign text with its invisible characters as codes."""
    return INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def shorten_visible(text: str) -> str:
    """Foreign text, cut to `LONGEST_SHOWN_CHARACTERS`, with its invisible characters as codes."""
    shown, cut = escape_invisible(text[:LONGEST_SHOWN_CHARACTERS]), len(text) - LONGEST_SHOWN_CHARACTERS
    return f"{shown} … and {cut:,} characters more" if cut > 0 else shown


def published_rate(value: float | list | None, signed: bool = False) -> str:
    """A published rate, or a range of rates, in per cent; signed, a difference in points."""
    if value is None:
        return "–"
    ends = [
        f"{100 * end:{'+' if signed else ''}.4g}" for end in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return (" to ".join(ends) + (" points" if signed else " %")).replace("-", "−")
