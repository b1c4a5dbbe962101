"""The artifacts of the stage `train`, written from the folder of a run whose steps are all done."""

import io
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.grpo import health
from gsm8k_grpo.grpo.kept_checkpoints import checkpoint_name
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.step_time import step_seconds


def write_artifacts(training_folder: Path, run: Run, steps: list[int], settings: Mapping, prompts: int) -> None:
    """Writes metrics.csv, samples.jsonl, checkpoints.json and, last, summary.json.

    Args:
      training_folder: the folder to write to, which holds the run's.
      steps: the steps whose checkpoints are kept.
      settings: the blocks seed and training.
      prompts: the number of rows that the run trained on.

    Raises:
      PipelineError: the run's log has no row for some step.
    """
    import pandas as pd  # here, because its import would delay the start of training

    history, inputs, hashes = run.history(steps[-1]), run.inputs(), run.checkpoint_hashes()
    checkpoints = [
        {
            "name": checkpoint_name(step, steps[-1]),
            "step": step,
            "path": run.checkpoint(step).relative_to(training_folder).as_posix(),
            "sha256": hashes[step],
        }
        for step in steps
    ]
    identity = {"fingerprint": run.folder.name}
    metrics = io.StringIO()
    pd.DataFrame(history).to_csv(metrics, index=False, lineterminator="\n")
    files.write_text(training_folder / "metrics.csv", metrics.getvalue())
    files.write_jsonl(training_folder / "samples.jsonl", [row for row in run.samples() if row["step"] in (1, *steps)])
    files.write_json(
        training_folder / "checkpoints.json",
        {
            **identity,
            "model": inputs["model"],
            "seed": settings["seed"],
            "lora": to_plain(settings["training"]["lora"]),
            "checkpoints": checkpoints,
        },
    )
    files.write_json(
        training_folder / "summary.json",
        {
            **identity,
            "inputs": {key: value for key, value in inputs.items() if key not in ("settings", "versions")},
            "steps": len(history),
            "prompts": prompts,
            "starts": run.starts(),
            **_durations(history),
            "memory": run.memory(),
            "warnings": [
                *health.settings_warnings(settings["training"]),
                *(text for end in range(len(history)) for text in health.warnings(history[: end + 1])),
            ],
            "provenance": collect_provenance(seed=settings["seed"]),
        },
    )


def _durations(history: list[dict]) -> dict[str, float]:
    """Seconds of each phase over all steps, and of a step without its checkpoint."""
    phases = [name for name in history[0] if name.endswith("_seconds")]
    totals = {name: sum(row[name] for row in history) for name in phases}
    return {**totals, "step_seconds": step_seconds(history)}
