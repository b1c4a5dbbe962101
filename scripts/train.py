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

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.common.provenance import collect_provenance, library_versions
from gsm8k_grpo.common.source_hash import source_hash
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.grpo import health
from gsm8k_grpo.grpo.checkpoint_names import checkpoint_name, checkpoint_steps
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.run_identity import describe_differences, run_identity
from gsm8k_grpo.grpo.trackers import Trackers
from gsm8k_grpo.rewards import custom
from gsm8k_grpo.rewards.answers import Tags


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
    chosen = stage_settings(arguments.settings, "seed", "mesh", "prompt", "training")
    training_settings = chosen["training"]
    rows = files.read_jsonl(arguments.rows, keys=("id", "prompt", "answer", "prompt_tokens"))
    manifest = files.read_json(arguments.model / "model.json")
    steps = checkpoint_steps(training_settings["max_steps"], training_settings["checkpoint_interval_steps"])
    if arguments.distributed:
        jax_setup.configure_jax()
        jax_setup.join_processes()
    leads = not arguments.distributed or jax_setup.is_lead_process()
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
            Trackers(run.folder, run.history(start), {"wandb_project": None}, "").close()
        _write(arguments.output, run, steps, run.history(steps[-1]), chosen, rows)


def _run(arguments: argparse.Namespace, chosen: Mapping, manifest: dict, leads: bool) -> Run:
    """The folder of the run that these inputs make, and of no other."""
    inputs = {
        "settings": run_identity(to_plain(chosen)),
        "rows": files.sha256_file(arguments.rows),
        "model": manifest["sha256"],
        "code": source_hash("train"),
        "rewards": custom.file_hashes(chosen["training"]["rewards"], ROOT),
        "versions": library_versions(),
    }
    fingerprint = files.sha256_text(files.canonical_json(inputs))[:16]
    folder = arguments.output / "runs" / fingerprint
    run = Run(folder, chosen["training"]["num_iterations"])
    if not leads:
        return run
    others = sorted(folder.parent.glob("*/inputs.json"), key=lambda path: path.stat().st_mtime)
    if others and not folder.exists():
        changed = "; ".join(describe_differences(files.read_json(others[-1]), inputs))
        print(f"another run than {others[-1].parent.name}, which stays as it is: {changed}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "inputs.json", inputs)
    print(f"run {fingerprint}", flush=True)
    return run


def _train(model_folder: Path, manifest: dict, chosen: Mapping, rows: list[dict], run: Run) -> None:
    """Trains from the run's newest checkpoint to the end."""
    training_settings, prompt = chosen["training"], chosen["prompt"]
    print(f"{len(rows)} prompts, {training_settings['max_steps']} steps", flush=True)
    for name in filter(custom.is_custom, training_settings["rewards"]):
        custom.load_function(name, ROOT)  # its faults are said before a model is loaded
    jax_setup.configure_jax()
    from gsm8k_grpo.common.process_memory import memory_used
    from gsm8k_grpo.grpo import tunix_setup
    from gsm8k_grpo.grpo.learner import Learner
    from gsm8k_grpo.grpo.loop import train_to_end
    from gsm8k_grpo.models import building
    from gsm8k_grpo.models.base_model import load_base_model
    from gsm8k_grpo.models.lora import make_policy, trained_variables, with_zero_adapters
    from gsm8k_grpo.models.mesh import make_mesh
    from gsm8k_grpo.preflight.memory_check import require_training_memory

    mesh = make_mesh(chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    loaded = load_base_model(model_folder, mesh)
    require_training_memory(loaded.config, training_settings, prompt["max_tokens"], mesh)
    lora = training_settings["lora"]
    policy = make_policy(loaded.model, lora, chosen["seed"], mesh)
    reference = None
    if training_settings["beta"]:
        if not lora:  # the policy's weights change: the reference needs its own
            reference = load_base_model(model_folder, mesh).model
        elif lora["base_weights"]:  # a quantised policy starts from the quantised base: that is its reference
            reference = with_zero_adapters(policy)
        else:
            reference = loaded.model
    print(
        f"{building.count_parameters(policy, trained_variables(lora)):,} {'LoRA parameters on' if lora else 'trained, of'} "
        f"{manifest['parameters']:,}; mesh {dict(mesh.shape)}",
        flush=True,
    )
    cluster = tunix_setup.make_rl_cluster(
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
    learner = Learner(cluster, training_settings, Tags(**prompt["tags"]), rows, chosen["seed"], loaded.stop_ids)
    del loaded, policy, reference  # where all weights are trained, those that it began with are needed no longer
    train_to_end(learner, training_settings, run)
    if jax_setup.is_lead_process():
        run.note_memory(memory_used())


def _write(output: Path, run: Run, steps: list[int], history: list[dict], chosen: Mapping, rows: list) -> None:
    """The declared artifacts, from a run's folder in which all steps are made; summary.json last."""
    ledger, inputs = run.ledger(), files.read_json(run.folder / "inputs.json")
    kept = [
        {
            "name": checkpoint_name(step, steps[-1]),
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
            "lora": to_plain(chosen["training"]["lora"]),
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
            "warnings": [text for end in range(len(history)) for text in health.warnings(history[: end + 1])],
            "provenance": collect_provenance(seed=chosen["seed"]),
        },
    )


def _csv(history: list[dict]) -> str:
    import pandas as pd

    text = io.StringIO()
    pd.DataFrame(history).to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


if __name__ == "__main__":
    run_stage(main)
