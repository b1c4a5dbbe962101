"""Writes the artifacts of an evaluation, completions.jsonl and metrics.json. JAX is not imported here."""

from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.evaluation.grading import grade_row
from gsm8k_grpo.evaluation.metrics import summarise_metrics
from gsm8k_grpo.evaluation.row_log import RowLog
from gsm8k_grpo.rewards.answers import Tags


def take_over_evaluation(
    same: list[Path], fingerprint: str, folder: Path, prompts: list[dict], settings: Mapping
) -> dict | None:
    """Copies the first evaluation of `same` (metrics.json of each) with this fingerprint; its metrics, or None.

    Its completions are graded again: a verdict that was altered does not count.

    Args:
      prompts: the rows of the evaluation.
      settings: the blocks prompt and evaluation.
    """
    for path in same:
        metrics = files.read_json_object(path)
        if metrics.get("fingerprint") != fingerprint:
            continue
        completions = path.parent / "completions.jsonl"
        rows = files.read_jsonl(completions, ("id", "sample", "completion"))
        graded = _grade_again(rows, prompts, settings)
        if graded is None:
            print(f"{completions}: does not have the completions of each prompt, so they are made again", flush=True)
            continue
        altered = [number for number, (row, right) in enumerate(zip(rows, graded, strict=True), 1) if row != right]
        if altered:
            print(
                f"{completions}, line {altered[0]}: is altered ({len(altered)} in all); it is graded again", flush=True
            )
            metrics |= summarise_metrics(graded, settings["evaluation"]["extraction"])
        files.write_jsonl(folder / "completions.jsonl", graded)
        files.write_json(folder / "metrics.json", metrics)
        print(f"{path.parent} holds the same evaluation: its rows are taken over")
        return metrics
    return None


def _grade_again(rows: list[dict], prompts: list[dict], settings: Mapping) -> list[dict] | None:
    """The same rows with the grader's verdicts; None where they are not the prompts' completions, each once."""
    evaluation, tags = settings["evaluation"], Tags.of(settings["prompt"])
    wanted = [(prompt["id"], sample) for prompt in prompts for sample in range(evaluation["samples"])]
    if [(row["id"], row["sample"]) for row in rows] != wanted or not all(
        isinstance(row["completion"], str) for row in rows
    ):
        return None
    by_id = {prompt["id"]: prompt for prompt in prompts}
    return [
        row
        | gsm8k.group_of(by_id[row["id"]])
        | {"answer": by_id[row["id"]]["answer"]}
        | grade_row(row["completion"], by_id[row["id"]], tags, evaluation["extraction"])
        for row in rows
    ]


def write_evaluation(graded: list[dict], split: str, checkpoint: Mapping, settings: Mapping, log: RowLog) -> dict:
    """Writes graded rows and their metrics beside the log, then deletes it. Returns the metrics."""
    metrics = {
        "split": split,
        "checkpoint": checkpoint["name"],
        "step": checkpoint["step"],
        "decoding": "greedy" if not settings["temperature"] else "sampled",
        "extraction": settings["extraction"],
        **summarise_metrics(graded, settings["extraction"]),
        "seconds": round(log.seconds, 3),
        "tokens_per_second": round(sum(row["tokens"] for row in graded) / log.seconds, 1),
        "starts": log.starts,
        "fingerprint": log.fingerprint,
        "provenance": collect_provenance(),
    }
    files.write_jsonl(log.folder / "completions.jsonl", graded)
    files.write_json(log.folder / "metrics.json", metrics)
    log.finish()
    return metrics
