"""The artifacts of evaluations, as later stages read them."""

from pathlib import Path

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.evaluation.grading import grade_row
from gsm8k_grpo.rewards.answers import Tags

# The checkpoints that are evaluated on a recipe's split: the base model, the best on dev, the last.
REPORTED_CHECKPOINTS = ("base", "best", "final")


def read_metrics(results: Path, run: str) -> dict[str, dict]:
    """metrics.json of each of `REPORTED_CHECKPOINTS`.

    Raises:
      PipelineError: one is missing or cannot be read.
    """
    return {
        name: files.read_json(layout.evaluation_folder(results, run, name) / "metrics.json")
        for name in REPORTED_CHECKPOINTS
    }


def first_completions(path: Path, *keys: str) -> list[dict]:
    """The first sample of each prompt in a completions.jsonl: paired tests and rewards take one verdict a prompt.

    Args:
      path: the file.
      keys: that each row needs beside `id` and `sample`.

    Raises:
      PipelineError: names the file and the row that cannot be read or lacks a key.
    """
    return [row for row in files.read_jsonl(path, ("id", "sample", *keys)) if row["sample"] == 0]


def graded_completions(path: Path, tags: Tags, extraction: str, *keys: str) -> list[dict]:
    """`first_completions` with the grader's readings and verdicts: those in the file may have been altered.

    Names the first row whose verdicts are not the grader's.

    Args:
      path: the file.
      tags: the recipe's output format.
      extraction: `evaluation.extraction`.
      keys: as in `first_completions`.

    Raises:
      PipelineError: as `first_completions`; or a completion is no text, or an answer no number.
    """
    rows, graded = first_completions(path, "completion", "answer", *keys), []
    for row in rows:
        try:
            if row["answer"] is None and "abstained" not in row:  # no number is right only where the stage wrote so
                raise TypeError
            graded.append(row | grade_row(row["completion"], row, tags, extraction))
        except (TypeError, AttributeError, ValueError):
            raise PipelineError(
                f"{path}: row {row['id']}: expected a text as completion and a number as answer; evaluate again"
            ) from None
    altered = [row["id"] for row, right in zip(rows, graded, strict=True) if row != right]
    if altered:
        print(
            f"WARNING: {path}: the verdicts of row {altered[0]} are not the grader's ({len(altered)} such rows); they "
            "are graded again here, and the file's own rates may be wrong: evaluate again",
            flush=True,
        )
    return graded
