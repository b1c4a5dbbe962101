"""Every rate of an evaluation and every column of training/metrics.csv, with its labels.

The page, the SVG plots and the model card take names, labels, units and colours from here. No stage that evaluates
imports this module, so a new label evaluates nothing again.
"""

from collections.abc import Iterable
from typing import NamedTuple

COLOUR = "#0b6e99"  # of the SVG plots' main line; the page's colours are in templates/report.css


class Rate(NamedTuple):
    """A rate in an evaluation's metrics.json."""

    key: str  # there
    label: str  # in tables
    counts: str = ""  # what it counts, in brackets after the label
    headline: bool = False  # whether it stands in the tables of the result
    curve: str = ""  # its name in charts over checkpoints; empty: not drawn
    colour: str = ""  # of its curve in accuracy.svg

    @property
    def comparison(self) -> str:
        """Its name in comparison.json."""
        return self.key.removesuffix("_accuracy")


class Column(NamedTuple):
    """A column of training/metrics.csv."""

    name: str  # there
    label: str  # in the legend of its panel
    plot: str = ""  # its title in training.svg, with the unit; empty: not drawn


class Panel(NamedTuple):
    """A chart of training on the page."""

    key: str  # in the page's data
    title: str
    about: str = ""  # the unit, or what the title leaves open
    columns: tuple[Column, ...] = ()


_RATES = (
    Rate("answer_accuracy", "answer", "the recipe's own reading", True, "answer", COLOUR),
    Rate("strict_accuracy", "strict", "answer tags or ####", True),
    Rate("flexible_accuracy", "flexible", "last number, format ignored", True, "format ignored", "#b3541e"),
    Rate("cascade_accuracy", "cascade", "\\boxed{}, else answer tags, else last number"),
    Rate("published_cascade_accuracy", "published cascade", "as in gemma3-1b-working-out's own evaluation"),
    Rate("partial_accuracy", "within ±10 %", headline=True),
    Rate("format_accuracy", "format", "reasoning, then one number, in their tags", True, "format", "#6b7f3a"),
    Rate("truncated_rate", "cut", "at the token limit"),
    # With several samples a prompt.
    Rate("pass_at_k", "pass@k", "one of the samples is right"),
    Rate("maj_at_k", "maj@k", "most samples agree on the right answer"),
)
RATES = {rate.key: rate for rate in _RATES}
CURVES = tuple(rate for rate in _RATES if rate.curve)

_SIGNAL = (
    Column("groups_without_signal", "without signal", "groups without signal, share"),
    Column("groups_replaced", "replaced"),
)
_LENGTH = (
    Column("completion_tokens_mean", "mean", "completion length, tokens"),
    Column("completion_tokens_max", "longest"),
)
_SECONDS = (
    Column("rollout_seconds", "rollout", "rollout, seconds"),
    Column("reference_seconds", "reference", "reference, seconds"),
    Column("update_seconds", "update", "update, seconds"),
    Column("checkpoint_seconds", "checkpoint"),
)
_DEVIATION = Column("reward_std", "standard deviation", "reward, standard deviation")
_CLIPPED = Column("clip_fraction", "clipped", "clipped ratios, share")
_CUT = Column("truncated_rate", "cut", "cut at the limit, share")
_WORDS = Column("reasoning_words", "words", "words of reasoning")
_CALCULATIONS = Column("calculations", "calculations", "calculations a completion")
_TRUE = (
    Column("calculations_true", "true, of calculations", "true calculations, share"),
    Column("calculated_answers", "last one is the answer, of completions", "answer = last calculation, share"),
)
_UNSAMPLED = Column("unsampled_mass", "left out", "probability left out")
PANELS = (
    Panel("reward", "Total reward", "mean of the completions", (Column("reward", "total reward", "total reward"),)),
    Panel("rewards", "Each reward", "means; their sum is the total"),  # `panels_of` fills it
    Panel("reward_std", "Standard deviation of the reward", "", (_DEVIATION,)),
    Panel("signal", "Groups without signal", "share of groups whose rewards are all equal", _SIGNAL),
    Panel("loss", "Loss", "", (Column("loss", "loss", "loss"),)),
    Panel("gradient_norm", "Gradient norm", "before clipping", (Column("gradient_norm", "norm", "gradient norm"),)),
    Panel("learning_rate", "Learning rate", "", (Column("learning_rate", "learning rate", "learning rate"),)),
    Panel("kl", "KL to the base model", "nats a token", (Column("kl", "KL", "KL to the base, nats a token"),)),
    Panel("entropy", "Entropy", "nats a token", (Column("entropy", "entropy", "entropy, nats a token"),)),
    Panel("clip_fraction", "Clipped ratios", "share of tokens", (_CLIPPED,)),
    Panel("length", "Completion length", "tokens", _LENGTH),
    Panel("truncated", "Cut at the limit", "share of completions", (_CUT,)),
    Panel("reasoning", "Words of reasoning", "a completion, between the tags", (_WORDS,)),
    Panel("calculations", "Calculations", "a completion", (_CALCULATIONS,)),
    Panel("true", "Calculations and answer", "shares", _TRUE),
    Panel("unsampled", "Left out by top_k and top_p", "share of probability", (_UNSAMPLED,)),
    Panel("tokens", "Tokens so far", "prompts and completions", (Column("tokens", "tokens", "tokens so far"),)),
    Panel("epoch", "Epoch", "", (Column("epoch", "epoch", "epoch"),)),
    Panel("seconds", "Seconds of a step", "by phase", _SECONDS),
)
# The phases of a step: PHASE_seconds is a column, and a sum in training/summary.json.
PHASES = tuple(column.label for column in _SECONDS)


def headline_rates(extraction: str) -> list[str]:
    """The keys of the rates in the tables of the result; `answer_accuracy` already is the recipe's own reading.

    A recipe that reads by one of the two cascades has the other one beside it.
    """
    cascades = {"cascade", "published_cascade"}
    shown = (cascades if extraction in cascades else set()) - {extraction}
    return [
        key
        for key, rate in RATES.items()
        if rate.comparison in shown or (rate.headline and rate.comparison != extraction)
    ]


def panels_of(columns: Iterable[str]) -> list[Panel]:
    """The panels of a run with these columns, its own rewards in the panel `rewards`."""
    listed = {column.name for panel in PANELS for column in panel.columns}
    rewards = tuple(
        Column(name, name.removeprefix("reward_").replace("_", " "), name.replace("_", " "))
        for name in columns
        if name.startswith("reward_") and name not in listed
    )
    return [panel._replace(columns=rewards) if panel.key == "rewards" else panel for panel in PANELS]
