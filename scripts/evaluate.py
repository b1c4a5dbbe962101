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

from gsm8k_grpo import code, evaluation, files, runtime, settings
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.errors import PipelineError, run_stage
from gsm8k_grpo.progress import Progress
from gsm8k_grpo.unfinished import Unfinished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--settings", required=True, help="JSON text or a settings.yaml; needs the blocks mesh, prompt and evaluation"
    )
    parser.add_argument("--rows", type=Path, required=True, help="prompts to evaluate on")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--checkpoint", default="base", help="base, step-N or final")
    parser.add_argument("--checkpoints", type=Path, help="checkpoints.json of the training (not for base)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    chosen = settings.stage_settings(arguments.settings, "mesh", "prompt", "evaluation")
    prompt, how = chosen["prompt"], chosen["evaluation"]
    tags = Tags(**prompt["tags"])
    rows = files.read_jsonl(arguments.rows, keys=("id", "prompt", "answer"))
    if how["rows"] and how["rows"] > len(rows):
        raise PipelineError(f"evaluation.rows: {how['rows']} rows wanted, {arguments.rows} has {len(rows)}")
    rows = rows[: how["rows"]]

    runtime.configure_jax()
    from gsm8k_grpo import base, memory, models, rollout

    mesh = models.make_mesh(chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    loaded = base.load(arguments.model, mesh)
    model = loaded.model
    if arguments.checkpoint != "base":
        if not arguments.checkpoints:
            raise PipelineError(f"--checkpoints: {arguments.checkpoint} needs the checkpoints.json of its training")
        model = base.load_checkpoint(loaded, arguments.checkpoints, arguments.checkpoint, mesh)
    batch_size = min(how["batch_size"], len(rows))
    memory.require_evaluation(loaded.config, batch_size, prompt["max_tokens"], how["max_completion_tokens"], mesh)
    cache = rollout.cache_tokens(prompt["max_tokens"], how["max_completion_tokens"])
    gather = chosen["mesh"]["decode_weights"] == "gathered"
    sampler = rollout.Sampler(model, loaded.tokenizer, cache, mesh, gather)
    decoding = rollout.Decoding(how["temperature"], how["top_k"], how["top_p"], how["seed"])
    prompts = [row["prompt"] for row in rows]
    batches = rollout.batches(prompts, how["samples"], batch_size)
    progress = Progress(f"evaluating {arguments.checkpoint}", len(rows) * how["samples"], "completions")
    unfinished = Unfinished(arguments.output, _inputs(arguments, chosen))
    if done := len(unfinished.batches):
        print(f"going on after {done} of {len(batches)} batches", flush=True)
    for batch in batches[:done]:
        progress.advance(len(batch))
    for batch in batches[done:]:
        started = time.monotonic()
        completions = rollout.complete(
            sampler,
            prompts,
            batch,
            batch_size,
            decoding,
            prompt["max_tokens"],
            how["max_completion_tokens"],
            loaded.stop_id,
            mesh,
        )
        graded = [
            {
                "id": rows[index]["id"],
                "sample": sample,
                "completion": completion.text,
                "answer": rows[index]["answer"],
                **evaluation.grade(completion.text, rows[index]["answer"], tags),
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
        "split": how["split"],
        "checkpoint": arguments.checkpoint,
        "decoding": "greedy" if not how["temperature"] else "sampled",
        "extraction": how["extraction"],
        **evaluation.metrics(graded, how["extraction"]),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(sum(row["tokens"] for row in graded) / seconds, 1),
        "provenance": runtime.provenance(),
    }
    files.write_jsonl(arguments.output / "completions.jsonl", graded)
    files.write_json(arguments.output / "metrics.json", metrics)
    unfinished.finish()
    for name in ("answer_accuracy", "flexible_accuracy", "format_accuracy"):
        rate = metrics[name]
        print(f"{name} {rate['value']:.1%} (95 % interval {rate['low']:.1%} to {rate['high']:.1%}, n = {rate['n']})")


def _inputs(arguments: argparse.Namespace, chosen: Mapping) -> dict:
    """All that the rows of an evaluation depend on."""
    checkpoint = None
    if arguments.checkpoint != "base":
        listed = files.read_json(arguments.checkpoints)["checkpoints"]
        (checkpoint,) = [each["sha256"] for each in listed if each["name"] == arguments.checkpoint]
    return {
        "settings": settings.thawed(chosen),
        "rows": files.sha256_file(arguments.rows),
        "model": files.read_json(arguments.model / "model.json")["sha256"],
        "checkpoint": checkpoint,
        "code": [files.sha256_file(settings.ROOT / path) for path in code.files("evaluate")],
        "versions": runtime.versions(),
    }


if __name__ == "__main__":
    run_stage(main)
