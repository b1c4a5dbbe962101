r"""Stage `train`: GRPO with LoRA from the base model, resuming by itself where a killed run stopped.

  python scripts/train.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/train.jsonl \
      --model results/models/tiny --output results/tiny/training

Checkpoints lie under runs/FINGERPRINT (settings, prompts, weights, code, files of rewards and library versions make the
fingerprint; nothing is continued with other ones). Writes metrics.csv (one row a step), samples.jsonl (some completions
with their rewards), checkpoints.json and, last, summary.json.
"""

import argparse
import io
import statistics
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo import checkpoints, code, files, own_rewards, runs, runtime, settings, trackers, watch
from gsm8k_grpo.answers import Tags
from gsm8k_grpo.errors import run_stage


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
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="this is one of several processes with a common --output, one a host (see runtime.join_processes)",
    )
    arguments = parser.parse_args()
    chosen = settings.stage_settings(arguments.settings, "seed", "mesh", "prompt", "training")
    training_settings = chosen["training"]
    rows = files.read_jsonl(arguments.rows, keys=("id", "prompt", "answer", "prompt_tokens"))
    manifest = files.read_json(arguments.model / "model.json")
    steps = checkpoints.checkpoint_steps(training_settings["max_steps"], training_settings["checkpoint_interval_steps"])
    if arguments.distributed:
        runtime.configure_jax()
        runtime.join_processes()
    leads = not arguments.distributed or runtime.leads()
    run = _run(arguments, chosen, manifest, leads)
    start = run.resume(steps) if leads else 0
    if arguments.distributed:
        from jax.experimental import multihost_utils

        start = int(multihost_utils.broadcast_one_to_all(start))
    if start < steps[-1]:
        if leads:
            run.note_start(start)
        _train(arguments.model, manifest, chosen, rows, run)
    if leads:
        if start == steps[-1]:  # finished before, perhaps in the very moment when it was killed
            run.prune(steps)
            trackers.Trackers(run.folder, run.history(start), {"wandb_project": None}, "").close()
        _write(arguments.output, run, steps, run.history(steps[-1]), chosen, rows)


def _run(arguments: argparse.Namespace, chosen: Mapping, manifest: dict, leads: bool) -> runs.Run:
    """The folder of the run that these inputs make, and of no other."""
    inputs = {
        "settings": runs.identity(settings.thawed(chosen)),
        "rows": files.sha256_file(arguments.rows),
        "model": manifest["sha256"],
        "code": files.sha256_text("".join(files.sha256_file(settings.ROOT / path) for path in code.files("train"))),
        "rewards": own_rewards.hashes(chosen["training"]["rewards"], settings.ROOT),
        "versions": runtime.versions(),
    }
    fingerprint = files.sha256_text(files.canonical_json(inputs))[:16]
    folder = arguments.output / "runs" / fingerprint
    run = runs.Run(folder, chosen["training"]["num_iterations"])
    if not leads:
        return run
    others = sorted(folder.parent.glob("*/inputs.json"), key=lambda path: path.stat().st_mtime)
    if others and not folder.exists():
        changed = "; ".join(runs.differences(files.read_json(others[-1]), inputs))
        print(f"another run than {others[-1].parent.name}, which stays as it is: {changed}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "inputs.json", inputs)
    print(f"run {fingerprint}", flush=True)
    return run


def _train(model_folder: Path, manifest: dict, chosen: Mapping, rows: list[dict], run: runs.Run) -> None:
    """Trains from the run's newest checkpoint to the end."""
    training_settings, prompt = chosen["training"], chosen["prompt"]
    print(f"{len(rows)} prompts, {training_settings['max_steps']} steps", flush=True)
    for name in filter(own_rewards.is_own, training_settings["rewards"]):
        own_rewards.load(name, settings.ROOT)  # its faults are said before a model is loaded
    runtime.configure_jax()
    from gsm8k_grpo import base, memory, models, training

    mesh = models.make_mesh(chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    loaded = base.load(model_folder, mesh)
    memory.require_training(loaded.config, training_settings, prompt["max_tokens"], mesh)
    lora = training_settings["lora"]
    policy = models.policy(loaded.model, lora, chosen["seed"], mesh)
    reference = None
    if training_settings["beta"]:
        if not lora:  # the policy's weights change: the reference needs its own
            reference = base.load(model_folder, mesh).model
        elif lora["base_weights"]:  # a quantised policy starts from the quantised base: that is its reference
            reference = models.without_adaptation(policy)
        else:
            reference = loaded.model
    print(
        f"{models.count_parameters(policy, models.trained(lora)):,} {'LoRA parameters on' if lora else 'trained, of'} "
        f"{manifest['parameters']:,}; mesh {dict(mesh.shape)}",
        flush=True,
    )
    cluster = training.make_cluster(
        policy,
        reference,
        loaded.tokenizer,
        mesh,
        training_settings,
        prompt["max_tokens"],
        loaded.stop_ids,
        chosen["seed"],
        run,
        chosen["mesh"]["decode_weights"] == "gathered",
    )
    learner = training.Learner(
        cluster, training_settings, Tags(**prompt["tags"]), rows, chosen["seed"], loaded.stop_ids
    )
    del loaded, policy, reference  # where all weights are trained, those that it began with are needed no longer
    training.run(learner, training_settings, run)
    if runtime.leads():
        run.note_memory(memory.used())


def _write(output: Path, run: runs.Run, steps: list[int], history: list[dict], chosen: Mapping, rows: list) -> None:
    """The declared artifacts, from a run's folder in which all steps are made; summary.json last."""
    ledger, inputs = run.ledger(), files.read_json(run.folder / "inputs.json")
    kept = [
        {
            "name": checkpoints.checkpoint_name(step, steps[-1]),
            "step": step,
            "path": run.checkpoint(step).relative_to(output).as_posix(),
            "sha256": ledger[step],
        }
        for step in steps
    ]
    files.write_text(output / "metrics.csv", _csv(history))
    files.write_jsonl(output / "samples.jsonl", [row for row in run.samples() if row["step"] in (1, *steps)])
    files.write_json(
        output / "checkpoints.json",
        {
            "fingerprint": run.folder.name,
            "model": inputs["model"],
            "seed": chosen["seed"],
            "lora": settings.thawed(chosen["training"]["lora"]),
            "checkpoints": kept,
        },
    )
    phases = [name for name in history[0] if name.endswith("_seconds")]
    files.write_json(
        output / "summary.json",
        {
            "fingerprint": run.folder.name,
            "inputs": {key: value for key, value in inputs.items() if key not in ("settings", "versions")},
            "steps": len(history),
            "prompts": len(rows),
            "starts": run.starts(),
            **{name: sum(row[name] for row in history) for name in phases},
            # The first step compiles; a checkpoint is no part of a step.
            "step_seconds": statistics.median(
                sum(row[name] for name in phases if name != "checkpoint_seconds") for row in history
            ),
            "memory": run.memory(),
            "warnings": [text for end in range(len(history)) for text in watch.warnings(history[: end + 1])],
            "provenance": runtime.provenance(seed=chosen["seed"]),
        },
    )


def _csv(history: list[dict]) -> str:
    import pandas as pd

    text = io.StringIO()
    pd.DataFrame(history).to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


if __name__ == "__main__":
    run_stage(main)
