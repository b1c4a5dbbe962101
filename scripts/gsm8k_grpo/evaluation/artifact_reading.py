"""The artifacts of evaluations, as later stages read them."""

from pathlib import Path

from gsm8k_grpo.common import files, layout

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
