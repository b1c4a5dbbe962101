"""Settings of evaluation, preflight and report, and the published figures that the report shows beside ours."""

from typing import Annotated, Literal

from pydantic import Field

from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.config.fields import (
    AS_WRITTEN,
    Block,
    Count,
    CountOrZero,
    PositiveOrZero,
    Seed,
    ShareAboveZero,
    Text,
)
from gsm8k_grpo.rewards import answers


class Evaluation(Block):
    """How the base model and the checkpoints are measured."""

    split: Literal["dev", "test"] = "test"
    """The rows to report on.
    - test: the base model, the final and the best checkpoint are evaluated on test, once each. All checkpoints are
      evaluated on dev, which decides which one is best.
    - dev: all are evaluated on dev, and test is not read at all."""
    rows: Count | None = None
    """How many rows of the split, from the beginning; null is all."""
    selection_rows: Count | None = None
    """With split test: on how many dev rows the best checkpoint is chosen; null is all."""
    batch_size: Count = 64
    """Prompts on the device at a time."""
    max_completion_tokens: Count = 768
    """Longest completion."""
    temperature: PositiveOrZero = 0
    """0 is greedy. Above 0, `samples` completions of each prompt are drawn (pass@k, maj@k), with noise that derives
    from the seed, the prompt and the sample."""
    top_k: Count | None = None
    """Sample among the k likeliest tokens; null is all."""
    top_p: ShareAboveZero = 1.0
    """Sample among the likeliest tokens that together have this probability."""
    samples: Count = 1
    """Completions of each prompt. More than one needs a temperature above 0."""
    seed: Seed = 0
    """Seed of sampling."""
    extraction: Literal[answers.READINGS] = "strict"
    """Which reading of a completion answer_accuracy counts.
    - strict: the answer tags, or ####.
    - flexible: the last number.
    - cascade: the last \\boxed{}, else the answer tags, else the last number.
    - published_cascade: the cascade as gemma3-1b-working-out's origin has it, with its faults (docs/rewards.md)."""


class Preflight(Block):
    """Would it fit? `snakemake --cores 1 results/RECIPE/preflight.json` compiles this recipe's programs for a machine
    that is not there (docs/preflight.md)."""

    accelerator: Literal[tuple(ACCELERATORS)] = "v5e-8"
    """The machine to compile for.
    - a TPU slice (v5e, v6e, v5p): with the TPU's own compiler. v5p counts TensorCores, two a chip.
    - a GPU: one card, estimated with the CPU's compiler."""
    level: Literal["screen", "verdict"] = "screen"
    """How well the compiler optimises.
    - screen: level O1, which compiles some five times faster.
    - verdict: its default, as on the machine itself."""
    price_per_chip_hour: PositiveOrZero | None = None
    """Price of one chip for one hour, in any currency. With it, the preflight states the least cost of the training.
    null is unknown."""


class Report(Block):
    """The page."""

    title: Text = "Showing its work"
    """Heading of the page."""
    examples: CountOrZero | None = None
    """For how many rows of each run the page shows completions, base against final: a fair share of fixed, broken and
    unchanged ones. null is all. The page stays under 5 MB: where all would be more, it states how many it shows."""


Rate = Annotated[float, Field(ge=-1, le=1), AS_WRITTEN]
RateOrRange = Rate | Annotated[list[Rate], Field(min_length=2, max_length=2)] | None


class PublishedCount(Block):
    """A published rate as counts: the report gives it an interval."""

    correct: CountOrZero
    """Rows that count."""
    n: Count
    """All rows."""


class PublishedRate(Block):
    """One published rate: a share from 0 to 1, a range [low, high] of shares, counts {correct, n}, or null where
    nothing was stated."""

    metric: Literal[
        "answer_accuracy",
        "strict_accuracy",
        "flexible_accuracy",
        "cascade_accuracy",
        "published_cascade_accuracy",
        "partial_accuracy",
        "format_accuracy",
    ]
    """The rate of metrics.json that it stands beside."""
    base: RateOrRange | PublishedCount
    """Before training."""
    trained: RateOrRange | PublishedCount
    """After training."""
    difference: RateOrRange
    """Between the two. Where both are counts, the report computes it."""


class Published(Block):
    """What the recipe's origin published."""

    text: Text
    """What was published, in a sentence."""
    source: Text
    """Where it was published."""
    conditions: Text
    """How its conditions differ from this run's."""
    values: list[PublishedRate]
    """Its rates."""
