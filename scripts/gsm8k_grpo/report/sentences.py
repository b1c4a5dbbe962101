"""Sentences of the page that follow the numbers."""

from collections.abc import Mapping

from gsm8k_grpo.report import numbers

SIGNIFICANT = 0.05


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
    changed = f"{numbers.points(compared['flexible']['difference']['value'])} points"
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
    changed = f"{numbers.points(answer['difference']['value'])} points ({numbers.interval_ends(answer['difference'])}; McNemar "
    said = {"better": "rose", "worse": "fell", "no significant change": "did not change significantly:"}
    samples = told["base"]["samples"]
    first = f"by the first of {samples} samples of each, " if samples > 1 else ""
    sentences = [
        f"Answer accuracy {said[verdict(answer)]} from {numbers.percent(base['value'])} ({_interval(base)}) to "
        f"{numbers.percent(final['value'])} ({_interval(final)}) of {numbers.count(answer['n'])} {told['base']['split']} "
        f"rows: {first}{changed}{numbers.p_value(answer['mcnemar_p'])}), {numbers.plural(answer['fixed'], 'row')} won, "
        f"{answer['broken']} lost.",
        resolution(answer),
        format_or_mathematics(compared),
    ]
    return " ".join(filter(None, sentences))


def _interval(rate: Mapping) -> str:
    return "no interval" if rate["low"] is None else f"{numbers.tenth(rate['low'])} to {numbers.tenth(rate['high'])}"


def seeds_headline(over: Mapping) -> str:
    """A recipe's result over its seeds in words that follow the numbers."""
    answer, flexible = (over["final - base"][f"{name}_accuracy"] for name in ("answer", "flexible"))

    def said(difference: Mapping) -> str:
        changed = f"{numbers.points(difference['value'])} points"
        if difference["sd"]:
            return f"{changed} on average ({numbers.interval_ends(difference)}): {seeds_verdict(difference)}"
        runs = "in the one run" if difference["n"] == 1 else f"in each of the {difference['n']} runs"
        return f"{changed} {runs}, which gives no interval over seeds"

    return f"Answer accuracy changed by {said(answer)}. With the format ignored, by {said(flexible)}."
