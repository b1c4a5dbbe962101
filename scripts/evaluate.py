r"""Stage `evaluate`: one checkpoint, or the base model, on the rows of a split, greedily.

  python scripts/evaluate.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/test.jsonl \
      --model results/models/tiny --checkpoints results/tiny/training/checkpoints.json --checkpoint final \
      --output results/tiny/evaluations/final

Writes completions.jsonl (per row: completion, what each reading found, right or wrong, tokens) and metrics.json.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.common.progress import Progress
from gsm8k_grpo.common.provenance import collect_provenance, library_versions
from gsm8k_grpo.common.source_hash import source_hash
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation.batch_log import BatchLog
from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.evaluation.metrics import summarise_metrics
from gsm8k_grpo.rewards.answers import Tags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--settings", required=True, help="JSON text or a settings.yaml; needs the blocks mesh, prompt and evaluation"
    )
    parser.add_argument("--rows", type=Path, required=True, help="prompts to evaluate on")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--split", choices=("dev", "test"), help="which split the rows are; default: their file's name")
    parser.add_argument("--checkpoint", default="base", help="base, step-N, final, or best: the one that --best names")
    parser.add_argument("--checkpoints", type=Path, help="checkpoints.json of the training (not for base)")
    parser.add_argument("--best", type=Path, help="best.json: which checkpoint was chosen on dev")
    parser.add_argument(
        "--same",
        type=Path,
        nargs="+",
        default=[],
        help="metrics.json of evaluations whose rows are taken over if equal",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    chosen = stage_settings(arguments.settings, "mesh", "prompt", "evaluation")
    prompt, how = chosen["prompt"], chosen["evaluation"]
    tags = Tags(**prompt["tags"])
    split = arguments.split or arguments.rows.stem
    if split not in ("dev", "test"):
        raise PipelineError(f"--split: say whether {arguments.rows} holds rows of dev or of test")
    limit = "selection_rows" if (split, how["split"]) == ("dev", "test") else "rows"
    rows = files.read_jsonl(arguments.rows, keys=("id", "prompt", "answer"))
    if how[limit] and how[limit] > len(rows):
        raise PipelineError(f"evaluation.{limit}: {how[limit]} rows wanted, {arguments.rows} has {len(rows)}")
    rows = rows[: how[limit]]
    checkpoint = _checkpoint(arguments)
    inputs = _inputs(arguments, chosen, rows, checkpoint)
    fingerprint = files.sha256_text(files.canonical_json(inputs))
    if _taken_over(arguments, fingerprint):
        return

    jax_setup.configure_jax()
    from gsm8k_grpo.generation.batches import Decoding, complete_batch, plan_batches
    from gsm8k_grpo.generation.cache_size import cache_tokens
    from gsm8k_grpo.generation.sampler import Sampler
    from gsm8k_grpo.models.base_model import load_base_model, load_for_evaluation
    from gsm8k_grpo.models.mesh import make_mesh
    from gsm8k_grpo.preflight.memory_check import require_evaluation_memory

    mesh = make_mesh(chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    loaded = load_base_model(arguments.model, mesh)
    model = loaded.model
    if checkpoint["name"] != "base":
        model = load_for_evaluation(loaded, arguments.checkpoints, checkpoint["name"], mesh)
    batch_size = min(how["batch_size"], len(rows))
    require_evaluation_memory(loaded.config, batch_size, prompt["max_tokens"], how["max_completion_tokens"], mesh)
    cache = cache_tokens(prompt["max_tokens"], how["max_completion_tokens"])
    gather = chosen["mesh"]["decode_weights"] == "gathered"
    sampler = Sampler(model, loaded.tokenizer, cache, mesh, gather)
    decoding = Decoding(how["temperature"], how["top_k"], how["top_p"], how["seed"])
    prompts = [row["prompt"] for row in rows]
    batches = plan_batches(prompts, how["samples"], batch_size)
    progress = Progress(f"evaluating {checkpoint['name']} on {split}", len(rows) * how["samples"], "completions")
    unfinished = BatchLog(arguments.output, fingerprint)
    if done := len(unfinished.batches):
        print(f"going on after {done} of {len(batches)} batches", flush=True)
    for batch in batches[:done]:
        progress.advance(len(batch))
    for batch in batches[done:]:
        started = time.monotonic()
        completions = complete_batch(
            sampler,
            prompts,
            batch,
            batch_size,
            decoding,
            prompt["max_tokens"],
            how["max_completion_tokens"],
            loaded.stop_ids,
            mesh,
            how["samples"],
        )
        graded = [
            {
                "id": rows[index]["id"],
                "sample": sample,
                "completion": completion.text,
                "answer": rows[index]["answer"],
                **grade_completion(completion.text, rows[index]["answer"], tags, how["extraction"]),
                "tokens": completion.tokens,
                "stop_reason": "limit" if completion.truncated else "end_of_turn",
            }
            for (index, sample), completion in zip(batch, completions, strict=True)
        ]
        unfinished.append(graded, time.monotonic() - started)
        progress.advance(len(batch))
    places = {row["id"]: place for place, row in enumerate(rows)}
    graded = [row for batch in unfinished.batches for row in batch["rows"]]
    graded.sort(key=lambda row: (places[row["id"]], row["sample"]))
    seconds = sum(batch["seconds"] for batch in unfinished.batches)
    metrics = {
        "split": split,
        "checkpoint": checkpoint["name"],
        "step": checkpoint["step"],
        "decoding": "greedy" if not how["temperature"] else "sampled",
        "extraction": how["extraction"],
        **summarise_metrics(graded, how["extraction"]),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(sum(row["tokens"] for row in graded) / seconds, 1),
        "starts": unfinished.starts,
        "fingerprint": fingerprint,
        "provenance": collect_provenance(),
    }
    files.write_jsonl(arguments.output / "completions.jsonl", graded)
    files.write_json(arguments.output / "metrics.json", metrics)
    unfinished.finish()
    _say(metrics)


def _checkpoint(arguments: argparse.Namespace) -> dict:
    """`name`, `step` and `sha256` of the checkpoint that is wanted; the base model is step 0 and has no hash."""
    name = arguments.checkpoint
    if name == "best":
        if not arguments.best:
            raise PipelineError("--best: checkpoint best needs the best.json that says which one it is")
        name = files.read_json(arguments.best)["checkpoint"]
    if name == "base":
        return {"name": "base", "step": 0, "sha256": None}
    if not arguments.checkpoints:
        raise PipelineError(f"--checkpoints: {name} needs the checkpoints.json of its training")
    listed = {each["name"]: each for each in files.read_json(arguments.checkpoints)["checkpoints"]}
    if name not in listed:
        raise PipelineError(f"{arguments.checkpoints}: no checkpoint {name!r}; there are base, {', '.join(listed)}")
    return {key: listed[name][key] for key in ("name", "step", "sha256")}


def _taken_over(arguments: argparse.Namespace, fingerprint: str) -> bool:
    """Copies the artifacts of the very same evaluation, if one of `--same` is it; whether one was."""
    for path in arguments.same:
        metrics = files.read_json(path)
        if metrics.get("fingerprint") == fingerprint:
            files.write_jsonl(
                arguments.output / "completions.jsonl", files.read_jsonl(path.parent / "completions.jsonl")
            )
            files.write_json(arguments.output / "metrics.json", metrics)
            print(f"the same evaluation is in {path.parent}: its rows are taken over")
            _say(metrics)
            return True
    return False


def _say(metrics: Mapping) -> None:
    """The main rates, on standard output."""
    for name in ("answer_accuracy", "flexible_accuracy", "format_accuracy"):
        rate = metrics[name]
        print(f"{name} {rate['value']:.1%} (95 % interval {rate['low']:.1%} to {rate['high']:.1%}, n = {rate['n']})")


def _inputs(arguments: argparse.Namespace, chosen: Mapping, rows: list[dict], checkpoint: Mapping) -> dict:
    """All that the rows of an evaluation depend on."""
    return {
        "settings": to_plain(chosen),
        "rows": files.sha256_text(files.canonical_json(rows)),
        "model": files.read_json(arguments.model / "model.json")["sha256"],
        "checkpoint": checkpoint["sha256"],
        "code": source_hash("evaluate"),
        "versions": library_versions(),
    }


if __name__ == "__main__":
    run_stage(main)
