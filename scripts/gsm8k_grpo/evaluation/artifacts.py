"""What evaluations leave, as the stages after them read it."""

from pathlib import Path

from gsm8k_grpo.common import files

# The models that are read on a recipe's split: before training, the checkpoint that dev chose, and the last one.
REPORTED_CHECKPOINTS = ("base", "best", "final")


def read_metrics(results: Path, run: str) -> dict[str, dict]:
    """The contents of metrics.json of each of `NAMES`.

    Raises:
      PipelineError: one is not there, or cannot be read.
    """
    return {
        name: files.read_json(results / run / "evaluations" / name / "metrics.json") for name in REPORTED_CHECKPOINTS
    }


def first_completions(path: Path, *keys: str) -> list[dict]:
    """The first sample of each prompt, of a completions.jsonl: tests of pairs and rewards take one verdict a row.

    Args:
      path: the file.
      keys: what each row must have, beside `id` and `sample`.

    Raises:
      PipelineError: naming the file and the row that cannot be read or lacks a key.
    """
    return [row for row in files.read_jsonl(path, ("id", "sample", *keys)) if row["sample"] == 0]
