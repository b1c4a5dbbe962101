r"""Stage `evaluate`: grades one checkpoint, or the base model, on the rows of a split.

  python scripts/evaluate.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/test.jsonl \
      --model results/models/tiny --checkpoints results/tiny/training/checkpoints.json --checkpoint final \
      --output results/tiny/evaluations/final

Writes completions.jsonl (for each row the completion, its readings, verdicts and length) and metrics.json (the rates).
"""

from pathlib import Path
from typing import Literal

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.command_line import ModelFolder, OutputFolder, Settings, run_stage
from gsm8k_grpo.common.session_end import session_end
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation import inputs
from gsm8k_grpo.evaluation.artifact_writing import take_over_evaluation, write_evaluation
from gsm8k_grpo.evaluation.metrics import format_rate
from gsm8k_grpo.evaluation.row_log import RowLog


def main(
    *,
    settings: Settings,
    rows: Path,
    model: ModelFolder,
    split: Literal["dev", "test"] | None = None,
    checkpoint: str = "base",
    checkpoints: Path | None = None,
    best: Path | None = None,
    same: list[Path] = (),
    output: OutputFolder,
    stop_after: float | None = None,
) -> None:
    """Runs the stage.

    Args:
      rows: prompts to evaluate on
      split: the split of the rows; default: the file's name
      checkpoint: base, step-N, final, or best (the one that --best names)
      checkpoints: checkpoints.json of the training (not for base)
      best: best.json, which names the checkpoint chosen on dev
      same: metrics.json of evaluations to reuse if equal
      stop_after: hours after which the evaluation stops itself; the same command goes on
    """
    end = session_end(stop_after)
    settings = stage_settings(settings, "mesh", "prompt", "evaluation")
    split = split or rows.stem
    prompts = inputs.read_rows(rows, split, settings["evaluation"])
    chosen = inputs.find_checkpoint(checkpoint, checkpoints, best)
    fingerprint = inputs.evaluation_fingerprint(settings, prompts, model, chosen)
    metrics = take_over_evaluation(same, fingerprint, output, prompts, settings)
    if metrics is None:
        jax_setup.configure_jax()
        from gsm8k_grpo.evaluation.runner import evaluate_rows
        from gsm8k_grpo.models.base_model import load_base_model, load_for_evaluation
        from gsm8k_grpo.models.mesh import make_mesh
        from gsm8k_grpo.preflight.this_machine import require_evaluation_memory

        mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
        require_evaluation_memory(files.read_json(model / "model.json"), settings, len(prompts), mesh)
        base = load_base_model(model, mesh)
        policy = load_for_evaluation(base, checkpoints, chosen["name"], mesh)
        log, title = RowLog(output, fingerprint), f"evaluating {chosen['name']} on {split}"
        graded = evaluate_rows(base, policy, mesh, prompts, settings, log, title, end)
        metrics = write_evaluation(graded, split, chosen, settings["evaluation"], log)
    for name in ("answer_accuracy", "flexible_accuracy", "format_accuracy"):
        print(format_rate(name, metrics[name]))


if __name__ == "__main__":
    run_stage(main)
