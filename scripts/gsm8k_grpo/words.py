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
SIGNIFICANT = 0.05


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


def ends(difference: Mapping) -> str:
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


def coded(text: str) -> str:
    """Text from outside as text that breaks nothing: control and direction marks as their codes."""
    return INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def visible(text: str) -> str:
    """Model output: as `coded`, and megabytes cut."""
    shown, left = coded(text[:LONGEST_SHOWN_CHARACTERS]), len(text) - LONGEST_SHOWN_CHARACTERS
    return f"{shown} … and {left:,} characters more" if left > 0 else shown


def published_rate(value: float | list | None, signed: bool = False) -> str:
    """A published share, or range of shares, in per cent (or, signed, in points)."""
    if value is None:
        return "–"
    ends = [
        f"{100 * end:{'+' if signed else ''}.4g}" for end in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return (" to ".join(ends) + (" points" if signed else " %")).replace("-", "−")


def verdict(compared: Mapping) -> str:
    """What a paired comparison of answers says, in words that follow the numbers."""
    if compared["mcnemar_p"] >= SIGNIFICANT:
        return "no significant change"
    return "better" if compared["difference"]["value"] > 0 else "worse"


def seeds_verdict(difference: Mapping) -> str:
    """What the differences of several runs say, in words that follow the numbers: is 0 in their interval?

    One run, or runs that agree to the last row, have no spread, and so no interval.
    """
    if not difference["sd"]:
        return "no interval"
    if difference["low"] <= 0 <= difference["high"]:
        return "no significant change"
    return "better" if difference["value"] > 0 else "worse"


def resolution(compared: Mapping) -> str:
    """What a comparison could have shown, where it shows no significant change: a sentence, else nothing."""
    if compared["mcnemar_p"] < SIGNIFICANT:
        return ""
    if compared["smallest_difference"] is None:
        return f"{compared['n']} rows are too few to show any change."
    smallest = f"{100 * compared['smallest_difference']:.1f}"
    return f"{compared['n']} rows would show a change of ± {smallest} points or more in 4 of 5 tries."


def format_or_mathematics(compared: Mapping) -> str:
    """What is left of a change in answers when the format is ignored, so that one of format is not sold as more.

    Args:
      compared: contents of comparison.json; `flexible` is the last number of a text, whatever its format.
    """
    answer, flexible = verdict(compared["answer"]), verdict(compared["flexible"])
    changed = f"{points(compared['flexible']['difference']['value'])} points"
    if flexible == "no significant change":
        if answer == "no significant change":
            return f"With the format ignored, no significant change either ({changed})."
        left = f"With the format ignored there is no significant change ({changed})"
        return f"{left}: that more than the format changed is not shown."
    if answer == flexible == "better":
        share = compared["flexible"]["difference"]["value"] < compared["answer"]["difference"]["value"]
        return (
            f"With the format ignored it is better by {changed}{': the rest of the gain is format' if share else ''}."
        )
    return f"With the format ignored it is {flexible} ({changed})."


def headline(told: Mapping) -> str:
    """One recipe's result in words that follow the numbers."""
    base, final, compared = told["base"]["answer_accuracy"], told["final"]["answer_accuracy"], told["compared"]
    answer = compared["answer"]
    changed = f"{points(answer['difference']['value'])} points ({ends(answer['difference'])}; McNemar "
    said = {"better": "rose", "worse": "fell", "no significant change": "did not change significantly:"}
    samples = told["base"]["samples"]
    first = f"by the first of {samples} samples of each, " if samples > 1 else ""
    sentences = [
        f"Answer accuracy {said[verdict(answer)]} from {percent(base['value'])} ({_interval(base)}) to "
        f"{percent(final['value'])} ({_interval(final)}) of {count(answer['n'])} {told['base']['split']} "
        f"rows: {first}{changed}{p_value(answer['mcnemar_p'])}), {plural(answer['fixed'], 'row')} won, "
        f"{answer['broken']} lost.",
        resolution(answer),
        format_or_mathematics(compared),
    ]
    return " ".join(filter(None, sentences))


def _interval(rate: Mapping) -> str:
    return "no interval" if rate["low"] is None else f"{tenth(rate['low'])} to {tenth(rate['high'])}"


def seeds_headline(over: Mapping) -> str:
    """A recipe's result over its seeds in words that follow the numbers."""
    answer, flexible = (over["final - base"][f"{name}_accuracy"] for name in ("answer", "flexible"))

    def said(difference: Mapping) -> str:
        changed = f"{points(difference['value'])} points"
        if difference["sd"]:
            return f"{changed} on average ({ends(difference)}): {seeds_verdict(difference)}"
        runs = "in the one run" if difference["n"] == 1 else f"in each of the {difference['n']} runs"
        return f"{changed} {runs}, which gives no interval over seeds"

    return f"Answer accuracy changed by {said(answer)}. With the format ignored, by {said(flexible)}."
