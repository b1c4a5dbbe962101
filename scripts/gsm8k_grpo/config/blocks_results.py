"""Settings of evaluation, preflight and report, and the published figures that the report shows beside ours."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.config.fields import (
    AS_WRITTEN,
    DATASET_HANDLE,
    PINNED_COMMIT,
    Block,
    Count,
    CountOrZero,
    Name,
    PositiveOrZero,
    Seed,
    ShareAboveZero,
    Text,
)
from gsm8k_grpo.data.transfer_sets import PUBLISHED_SETS
from gsm8k_grpo.rewards import answers


class TransferSet(Block):
    """A set of problems beside the recipe's own, as a block. A published set needs its name alone."""

    name: Name
    """Names the folder results/data/NAME. Of a published set (svamp, multiarith, gsm1k, gsm_plus, gsm_symbolic,
    gsm_symbolic_p1, gsm_symbolic_p2), it also says which columns the file has."""
    path: Text | None = None
    """A file (.jsonl, .json, .csv or .parquet) on this machine or, with `handle`, in that repository. null downloads a
    published set from its own repository."""
    handle: Annotated[str, Field(pattern=DATASET_HANDLE)] | None = None
    """A data set on Hugging Face that has the file."""
    revision: Annotated[str, Field(pattern=PINNED_COMMIT)] | None = None
    """The commit of that data set."""
    question: Text | None = None
    """The column of the question. null is `question`, or the published set's own."""
    answer: Text | None = None
    """The column of the answer: a number, or a solution that ends in `#### NUMBER`. null is `answer`, or the published
    set's own."""
    group: Text | None = None
    """The column that names a part of the set, which gets rates of its own; null is none, or the published set's."""
    cluster: Text | None = None
    """The column that rows made from one template share, such as its number. null is none, or the published set's."""
    rows: Count | None = None
    """How many rows to evaluate on, drawn by `seed`; null is all."""
    seed: Seed = 0
    """Draws the rows."""

    @model_validator(mode="after")
    def _names_its_rows(self) -> Self:
        if self.handle and not (self.path and self.revision):
            raise PydanticCustomError("transfer_handle", "a handle alone")
        if not self.path and self.name not in PUBLISHED_SETS:
            raise PydanticCustomError("transfer_path", "no path")
        named = [self.question, self.answer, self.group, self.cluster]
        if self.name in PUBLISHED_SETS and any(named) and not (self.question and self.answer):
            raise PydanticCustomError("transfer_columns", "some columns")
        return self


def _as_block(chosen: str | TransferSet) -> TransferSet:
    return TransferSet(name=chosen) if isinstance(chosen, str) else chosen


def _with_distinct_names(sets: list[TransferSet]) -> list[TransferSet]:
    if len({each.name for each in sets}) < len(sets):
        raise PydanticCustomError("repeated_name", "a name is repeated")
    return sets


AnyTransferSet = Annotated[Literal[tuple(PUBLISHED_SETS)] | TransferSet, AfterValidator(_as_block)]


class Evaluation(Block):
    """How the base model and the checkpoints are measured."""

    split: Literal["dev", "test"] = "test"
    """The rows to report on.
    - test: the base model, the final and the best checkpoint are evaluated on test, once each. All checkpoints are
      evaluated on dev, which decides which one is best.
    - dev: all are evaluated on dev, and nothing on test."""
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
    transfer: Annotated[list[AnyTransferSet], AfterValidator(_with_distinct_names)] = []
    """Sets of other problems, to see whether what was learned carries over: the base model, the final and the best
    checkpoint are evaluated on each, greedily, with the same prompt and grader (docs/evaluation.md). Nothing is chosen
    on them. A published set by its name (svamp, multiarith, gsm1k, gsm_plus, gsm_symbolic, gsm_symbolic_p1,
    gsm_symbolic_p2), or any file as a block: {name: mine, path: problems.csv, question: problem, answer: result}."""


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
