r"""Stage `train`: GRPO with LoRA from the base model, resuming by itself where a killed run stopped.

  python scripts/train.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/train.jsonl \
      --model results/models/tiny --output results/tiny/training

Checkpoints lie under runs/FINGERPRINT (settings, prompts, weights and code make the fingerprint; nothing is continued
with other ones). Writes metrics.csv (one row a step), checkpoints.json and, last, summary.json.
"""

import argparse
import io
from pathlib import Path

from gsm8k_grpo import checkpoints, code, files, runtime, settings
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.errors import PipelineError, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--settings",
        required=True,
        help="JSON text or a settings.yaml; needs the blocks seed, mesh, prompt and training",
    )
    parser.add_argument("--rows", type=Path, required=True, help="prompts to train on")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    chosen = settings.stage_settings(arguments.settings, "seed", "mesh", "prompt", "training")
    seed, prompt, training_settings = chosen["seed"], chosen["prompt"], chosen["training"]
    rows = files.read_jsonl(arguments.rows, keys=("id", "prompt", "answer"))
    manifest = files.read_json(arguments.model / "model.json")
    inputs = {
        "settings": settings.thawed(chosen),
        "rows": files.sha256_file(arguments.rows),
        "model": manifest["sha256"],
        "code": [files.sha256_file(settings.ROOT / path) for path in code.files("train")],
    }
    fingerprint = files.sha256_text(files.canonical_json(inputs))[:16]
    run_folder = arguments.output / "runs" / fingerprint
    run_folder.mkdir(parents=True, exist_ok=True)
    files.write_json(run_folder / "inputs.json", inputs)
    print(f"run {fingerprint}: {len(rows)} prompts, {training_settings['max_steps']} steps", flush=True)

    runtime.configure_jax()
    from gsm8k_grpo import base, memory, models, training

    mesh = models.make_mesh(**chosen["mesh"])
    reference = base.load(arguments.model, mesh)
    memory.require_training(reference.config, training_settings, prompt["max_tokens"], mesh)
    policy = models.with_lora(reference.model, training_settings["lora"], seed, mesh)
    print(
        f"{models.count_parameters(policy, models.nnx.LoRAParam):,} LoRA parameters on "
        f"{manifest['parameters']:,}; mesh {dict(mesh.shape)}",
        flush=True,
    )
    cluster = training.restored_cluster(
        run_folder,
        policy,
        reference.model,
        reference.tokenizer,
        mesh,
        training_settings,
        prompt["max_tokens"],
        reference.stop_id,
        seed,
    )
    learner = training.Learner(cluster, training_settings, Tags(**prompt["tags"]))
    history = training.run(learner, rows, training_settings, seed, run_folder / "metrics.jsonl")

    steps = checkpoints.checkpoint_steps(training_settings["max_steps"], training_settings["checkpoint_interval_steps"])
    kept = []
    for step in steps:
        folder = training.checkpoint_folder(run_folder, step, training_settings)
        if not folder.is_dir():
            raise PipelineError(f"{folder}: the checkpoint of step {step} is missing; move {run_folder} away and rerun")
        kept.append(
            {
                "name": checkpoints.checkpoint_name(step, training_settings["max_steps"]),
                "step": step,
                "path": folder.relative_to(arguments.output).as_posix(),
                "sha256": files.sha256_tree(folder),
            }
        )
    files.write_text(arguments.output / "metrics.csv", _csv(history))
    facts = {
        "fingerprint": fingerprint,
        "inputs": {key: value for key, value in inputs.items() if key != "settings"},
        "steps": len(history),
        "prompts": len(rows),
        "rollout_seconds": sum(row["rollout_seconds"] for row in history),
        "update_seconds": sum(row["update_seconds"] for row in history),
        "provenance": runtime.provenance(seed=seed),
    }
    files.write_json(
        arguments.output / "checkpoints.json",
        {
            "fingerprint": fingerprint,
            "seed": seed,
            "lora": settings.thawed(training_settings["lora"]),
            "checkpoints": kept,
        },
    )
    files.write_json(arguments.output / "summary.json", facts)


def _csv(history: list[dict]) -> str:
    import pandas as pd

    text = io.StringIO()
    pd.DataFrame(history).to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


if __name__ == "__main__":
    run_stage(main)
