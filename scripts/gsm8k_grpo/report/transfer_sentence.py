"""The one sentence on whether the gain of a run is format, holds on its own rows alone, or carries over."""

from collections.abc import Mapping

from gsm8k_grpo.evaluation import transfer
from gsm8k_grpo.report import numbers


def transfer_sentence(compared: Mapping) -> str:
    """The verdict of transfer.json in words, then what it leaves open: sets without a gain, and sets with a loss.

    Args:
      compared: transfer.json.
    """
    own, sets = compared["own"]["name"], compared["sets"]
    ignored = f"{numbers.points(compared['own']['flexible']['difference']['value'])} points"
    better, worse, only_format, unchanged = (_named(sets, each) for each in transfer.SET_VERDICTS)
    others = numbers.plural(len(sets), "other set")
    said = {
        transfer.NO_SET: "No other set of problems was tried.",
        transfer.NO_GAIN: f"Answer accuracy on {own} did not rise significantly, so there is no gain to carry over.",
        transfer.ONLY_FORMAT: f"The gain on {own} is format: with the format ignored, answers rose significantly "
        f"neither there ({ignored}) nor on any of {others}.",
        transfer.ALONE: f"The gain holds on {own} alone: with the format ignored, answers rose there by {ignored}, and "
        f"significantly on none of {others}.",
        transfer.CARRIES_OVER: f"The gain on {own} carries over to {', '.join(better)} ({len(better)} of {others}): "
        "answers rose there even with the format ignored.",
    }[compared["verdict"]]
    if better and compared["verdict"] == transfer.NO_GAIN:
        said += f" They rose on {', '.join(better)}."
    if better and unchanged:
        said += f" No significant change is seen on {', '.join(unchanged)}."
    if only_format:
        said += f" On {', '.join(only_format)}, only answers in the format rose."
    return said + (f" Answers fell on {', '.join(worse)}." if worse else "")


def _named(sets: Mapping[str, Mapping], verdict: str) -> list[str]:
    return [name for name, each in sets.items() if each["verdict"] == verdict]
