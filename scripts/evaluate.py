r"""Stage `evaluate`: grades one checkpoint, or the base model, on the rows of a split.

  python scripts/evaluate.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/test.jsonl \
      --model results/models/tiny --checkpoints results/tiny/training/checkpoints.json --checkpoint final \
      --output results/tiny/evaluations/final

Writes completions.jsonl (for each row the completion, its readings, verdicts and length) and metrics.json (the rates).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.command_line import ModelFolder, OutputFolder, Settings, run_stage
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.provenance import collect_provenance, library_versions
from gsm8k_grpo.common.source_hash import source_hash
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation.metrics import format_rate, summarise_metrics
from gsm8k_grpo.evaluation.row_log import RowLog
from gsm8k_grpo.rewards.answers import Tags


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
) -> None:
    """Runs the stage.

    Args:
      rows: prompts to evaluate on
      split: the split of the rows; default: the file's name
      checkpoint: base, step-N, final, or best (the one that --best names)
      checkpoints: checkpoints.json of the training (not for base)
      best: best.json, which names the checkpoint chosen on dev
      same: metrics.json of evaluations to reuse if equal
    """
    settings = stage_settings(settings, "mesh", "prompt", "evaluation")
    split = split or rows.stem
    if split not in ("dev", "test"):
        raise PipelineError(f"--split: the name of {rows} is no split; give --split dev or --split test")
    prompts = _rows(rows, split, settings["evaluation"])
    chosen = _checkpoint(checkpoint, checkpoints, best)
    inputs = {
        "settings": to_plain(settings),
        "rows": files.sha256_text(files.canonical_json(prompts)),
        "model": files.read_json(model / "model.json")["sha256"],
        "checkpoint": chosen["sha256"],
        "code": source_hash("evaluate"),
        "versions": library_versions(),
    }
    fingerprint = files.sha256_text(files.canonical_json(inputs))
    metrics = _copy_same(same, output, fingerprint)
    if metrics is None:
        metrics = _evaluate(settings, prompts, split, model, checkpoints, chosen, output, fingerprint)
    for name in ("answer_accuracy", "flexible_accuracy", "format_accuracy"):
        print(format_rate(name, metrics[name]))


def _rows(path: Path, split: str, evaluation_settings: Mapping) -> list[dict]:
    """The rows to evaluate on. Dev has a limit of its own where it only serves to choose a checkpoint."""
    limit = "selection_rows" if (split, evaluation_settings["split"]) == ("dev", "test") else "rows"
    rows, wanted = files.read_jsonl(path, keys=("id", "prompt", "answer")), evaluation_settings[limit]
    if wanted and wanted > len(rows):
        raise PipelineError(f"evaluation.{limit}: is {wanted}, but {path} has only {len(rows)} rows; lower it")
    return rows[:wanted]


def _checkpoint(name: str, checkpoints: Path | None, best: Path | None) -> dict:
    """`name`, `step` and `sha256` of the requested checkpoint; the base model is step 0 and has no hash."""
    if name == "best":
        if not best:
            raise PipelineError("--best: --checkpoint best needs the best.json that names the checkpoint; give it")
        name = files.read_json(best)["checkpoint"]
    if name == "base":
        return {"name": "base", "step": 0, "sha256": None}
    if not checkpoints:
        raise PipelineError(f"--checkpoints: --checkpoint {name} needs the checkpoints.json of its training; give it")
    listed = {each["name"]: each for each in files.read_json(checkpoints)["checkpoints"]}
    if name not in listed:
        raise PipelineError(f"{checkpoints}: has no checkpoint {name!r}; --checkpoint can be base, {', '.join(listed)}")
    return {key: listed[name][key] for key in ("name", "step", "sha256")}


def _copy_same(same: list[Path], output: Path, fingerprint: str) -> dict | None:
    """Copies the artifacts of the first evaluation of `--same` with this fingerprint; its metrics, or None."""
    for path in same:
        metrics = files.read_json(path)
        if metrics.get("fingerprint") == fingerprint:
            completions = files.read_jsonl(path.parent / "completions.jsonl")
            files.write_jsonl(output / "completions.jsonl", completions)
            files.write_json(output / "metrics.json", metrics)
            print(f"{path.parent} holds the same evaluation: its rows are taken over")
            return metrics
    return None


def _evaluate(
    settings: Mapping,
    rows: list[dict],
    split: str,
    model_folder: Path,
    checkpoints: Path | None,
    checkpoint: Mapping,
    output: Path,
    fingerprint: str,
) -> dict:
    """Completes and grades the rows, writes both artifacts and returns the metrics."""
    jax_setup.configure_jax()
    from gsm8k_grpo.evaluation.runner import BatchSampler, evaluate_rows
    from gsm8k_grpo.models.base_model import load_base_model, load_for_evaluation
    from gsm8k_grpo.models.mesh import make_mesh
    from gsm8k_grpo.preflight.memory_check import require_evaluation_memory

    prompt, evaluation = settings["prompt"], settings["evaluation"]
    mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
    base = load_base_model(model_folder, mesh)
    model = base.model
    if checkpoint["name"] != "base":
        model = load_for_evaluation(base, checkpoints, checkpoint["name"], mesh)
    batch_size, max_tokens = min(evaluation["batch_size"], len(rows)), prompt["max_tokens"]
    require_evaluation_memory(base.config, batch_size, max_tokens, evaluation["max_completion_tokens"], mesh)
    gathered = settings["mesh"]["decode_weights"] == "gathered"
    sampler = BatchSampler(base, model, mesh, gathered, evaluation, evaluation["seed"], batch_size, max_tokens)
    log = RowLog(output, fingerprint)
    title = f"evaluating {checkpoint['name']} on {split}"
    graded = evaluate_rows(sampler, rows, evaluation, Tags.of(prompt), log, title)
    metrics = {
        "split": split,
        "checkpoint": checkpoint["name"],
        "step": checkpoint["step"],
        "decoding": "greedy" if not evaluation["temperature"] else "sampled",
        "extraction": evaluation["extraction"],
        **summarise_metrics(graded, evaluation["extraction"]),
        "seconds": round(log.seconds, 3),
        "tokens_per_second": round(sum(row["tokens"] for row in graded) / log.seconds, 1),
        "starts": log.starts,
        "fingerprint": fingerprint,
        "provenance": collect_provenance(),
    }
    files.write_jsonl(output / "completions.jsonl", graded)
    files.write_json(output / "metrics.json", metrics)
    log.finish()
    return metrics


if __name__ == "__main__":
    run_stage(main)
