"""Sentences that follow from the numbers of a result."""

from collections.abc import Mapping

from gsm8k_grpo.evaluation.comparison import BETTER, UNCHANGED, WORSE, verdict
from gsm8k_grpo.evaluation.stats import SIGNIFICANT
from gsm8k_grpo.grpo.training_method import METHOD_TITLES
from gsm8k_grpo.report import numbers


def seeds_verdict(difference: Mapping) -> str:
    """The result over seeds, by whether the interval of the differences leaves out 0.

    One run has no interval, and neither have runs that agree to the last row.
    """
    if not difference["sd"]:
        return "no interval"
    if difference["low"] <= 0 <= difference["high"]:
        return UNCHANGED
    return BETTER if difference["value"] > 0 else WORSE


def resolution(comparison: Mapping) -> str:
    """The change that a comparison without a significant one could have shown; empty if it shows one."""
    if comparison["mcnemar_p"] < SIGNIFICANT:
        return ""
    if comparison["smallest_difference"] is None:
        return f"{comparison['n']} rows are too few to show any change."
    smallest = f"{100 * comparison['smallest_difference']:.1f}"
    return f"{comparison['n']} rows would show a change of ± {smallest} points or more in 4 of 5 tries."


def format_or_mathematics(compared: Mapping) -> str:
    """The part of a change in answers that remains if the format is ignored.

    Args:
      compared: comparison.json; `flexible` reads the last number of a completion, whatever its format.
    """
    answer, flexible = verdict(compared["answer"]), verdict(compared["flexible"])
    points = f"{numbers.points(compared['flexible']['difference']['value'])} points"
    if flexible == UNCHANGED and answer == UNCHANGED:
        return f"With the format ignored, there is no significant change either ({points})."
    if flexible == UNCHANGED:
        return f"With the format ignored, there is no significant change ({points}): perhaps only the format changed."
    if answer == flexible == BETTER:
        partly = compared["flexible"]["difference"]["value"] < compared["answer"]["difference"]["value"]
        return (
            f"With the format ignored, it is better by {points}{': the rest of the gain is format' if partly else ''}."
        )
    return f"With the format ignored, it is {flexible} ({points})."


def subject(run: Mapping) -> str:
    """Which model of which size learned on which data; empty where a file that says so is missing."""
    model, dataset, prompts = run["model"], run["dataset"], run["prompts"]
    if not (model and dataset and prompts):
        return ""
    size = f"{numbers.count(model['parameters'])} parameters"
    rows = f"{numbers.count(prompts['splits']['train']['rows'])} rows of {dataset['name']}"
    method = METHOD_TITLES[run["settings"]["training"]["method"]]
    if dataset["origin"]["source"] == "generated":
        rows += ", which a program made"
    if model["origin"]["source"] == "pretrained":
        return f"A miniature, taught flaws on purpose: {size}, pretrained here. Trained by {method} on {rows}."
    return f"The model is {model['name']}, with {size}. Trained by {method} on {rows}."


def headline(run: Mapping) -> str:
    """The result of one run that has both evaluations and their comparison."""
    base, final, compared = run["base"]["answer_accuracy"], run["final"]["answer_accuracy"], run["compared"]
    answer, samples = compared["answer"], run["base"]["samples"]
    moved = {BETTER: "rose", WORSE: "fell", UNCHANGED: "did not change significantly:"}[verdict(answer)]
    first = f"by the first of {samples} samples of each, " if samples > 1 else ""
    interval, p = numbers.interval_ends(answer["difference"]), numbers.p_value(answer["mcnemar_p"])
    sentences = (
        f"Answer accuracy {moved} from {rate(base)} to {rate(final)} of {numbers.count(answer['n'])} "
        f"{run['base']['split']} rows: {first}{numbers.points(answer['difference']['value'])} points ({interval}; "
        f"McNemar {p}), {numbers.plural(answer['fixed'], 'row')} won, {answer['broken']} lost.",
        resolution(answer),
        format_or_mathematics(compared),
    )
    return " ".join(filter(None, sentences))


def controls_sentence(run: Mapping) -> str:
    """Which part of a run's gain in answers its controls explain too; empty while a part of the tests is missing.

    Args:
      run: with its comparison and its `controls` (`page.controls_of`).
    """
    tested = [each for each in run["controls"] if each["run"]["compared"] and each["against"]]
    if not run["compared"] or len(tested) < len(run["controls"]):
        return ""
    own = run["compared"]["answer"]
    gain = numbers.points(own["difference"]["value"])
    if verdict(own) != BETTER:
        return f"Answer accuracy did not rise significantly ({gain} points), so a control has no gain to explain."
    # The control that explains the most decides: what it leaves, no other control explains.
    strongest = max(tested, key=lambda each: each["run"]["compared"]["answer"]["difference"]["value"])
    name, change, against = strongest["name"], strongest["run"]["compared"]["answer"], strongest["against"]["answer"]
    changed, about = numbers.points(change["difference"]["value"]), f"{name} ({strongest['about']})"
    p = f"McNemar {numbers.p_value(against['holm_p'])}, Holm"
    if verdict(against) != WORSE:
        return (
            f"The control {about} changes answer accuracy by {changed} points and the recipe's own rewards by {gain}, "
            f"which is no significant advantage ({p}): this gain does not show that right answers taught anything."
        )
    if verdict(change) != BETTER:
        which = "the strongest control" if len(tested) > 1 else "the control"
        return (
            f"No part of the gain of {gain} points in answers is explained by {which}, {about}: it changes them by "
            f"{changed} points ({numbers.p_value(change['mcnemar_p'])})."
        )
    rest = {"low": -against["difference"]["high"], "high": -against["difference"]["low"]}
    return (
        f"Of the {gain} points that answer accuracy gains, the control {about} gains {changed} too; the other "
        f"{numbers.points(-against['difference']['value'])} ({numbers.interval_ends(rest)}; {p}) need the recipe's own "
        "rewards."
    )


def rate(counted: Mapping) -> str:
    """A rate with its interval, in per cent."""
    low, high = counted["low"], counted["high"]
    ends = "no interval" if low is None else f"{numbers.tenth(low)} to {numbers.tenth(high)}"
    return f"{numbers.percent(counted['value'])} ({ends})"


def published_change(row: Mapping) -> str:
    """Whether a published change can be told from none; empty where no interval is known.

    Args:
      row: of `run_summary.published_rows`.
    """
    difference = row["difference"]
    if not isinstance(difference, Mapping):
        return ""
    ends = f"{numbers.points(difference['value'])} points ({numbers.interval_ends(difference)})"
    if difference["low"] <= 0 <= difference["high"]:
        return f"The published change of {ends} has an interval that contains 0: it may be no change."
    return f"The published change of {ends} has an interval that leaves out 0."


def seeds_headline(over_seeds: Mapping) -> str:
    """The result of a recipe over its seeds (seeds.json). The verdict is on the answer accuracy alone."""
    answer, flexible = (over_seeds["final - base"][f"{name}_accuracy"] for name in ("answer", "flexible"))
    verdict_of_seeds = f": {seeds_verdict(answer)}" if answer["sd"] else ""
    return (
        f"Answer accuracy changed by {_change(answer)}{verdict_of_seeds}. "
        f"With the format ignored, it changed by {_change(flexible)}."
    )


def _change(difference: Mapping) -> str:
    points = f"{numbers.points(difference['value'])} points"
    if difference["sd"]:
        return f"{points} on average ({numbers.interval_ends(difference)})"
    runs = "in the one run" if difference["n"] == 1 else f"in each of the {difference['n']} runs"
    return f"{points} {runs}, which gives no interval over seeds"
