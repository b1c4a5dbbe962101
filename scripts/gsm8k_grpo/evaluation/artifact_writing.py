"""Writes the artifacts of an evaluation, completions.jsonl and metrics.json. JAX is not imported here."""

from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.evaluation.metrics import summarise_metrics
from gsm8k_grpo.evaluation.row_log import RowLog


def take_over_evaluation(same: list[Path], fingerprint: str, folder: Path) -> dict | None:
    """Copies the first evaluation of `same` (metrics.json of each) with this fingerprint; its metrics, or None."""
    for path in same:
        metrics = files.read_json(path)
        if metrics.get("fingerprint") == fingerprint:
            files.write_jsonl(folder / "completions.jsonl", files.read_jsonl(path.parent / "completions.jsonl"))
            files.write_json(folder / "metrics.json", metrics)
            print(f"{path.parent} holds the same evaluation: its rows are taken over")
            return metrics
    return None


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
