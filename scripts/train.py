r"""Stage `train`: GRPO with LoRA from the base model. The same command resumes a run that was killed.

  python scripts/train.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/train.jsonl \
      --model results/models/tiny --output results/tiny/training

Checkpoints are in runs/FINGERPRINT. The fingerprint is a hash of settings, prompts, weights, code, files of rewards and
library versions, and a checkpoint continues only a run with the same fingerprint. Writes metrics.csv (a row for each
step), samples.jsonl (some completions with their rewards), checkpoints.json and, last, summary.json.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.grpo.artifacts import write_artifacts
from gsm8k_grpo.grpo.checkpoint_names import checkpoint_steps
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.run_identity import run_inputs
from gsm8k_grpo.grpo.trackers import Trackers


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
        help="this is one of several processes with the same --output, one on each host (see jax_setup.join_processes)",
    )
    arguments = parser.parse_args()
    settings = stage_settings(arguments.settings, "seed", "mesh", "prompt", "training")
    training_settings = settings["training"]
    rows = files.read_jsonl(arguments.rows, keys=("id", "prompt", "answer", "prompt_tokens"))
    manifest = files.read_json(arguments.model / "model.json")
    steps = checkpoint_steps(training_settings["max_steps"], training_settings["checkpoint_interval_steps"])
    inputs = run_inputs(settings, arguments.rows, manifest["sha256"])
    run = Run.of_inputs(arguments.output, inputs, training_settings["num_iterations"])
    if arguments.distributed:
        jax_setup.configure_jax()
        jax_setup.join_processes()
    leads = not arguments.distributed or jax_setup.is_lead_process()
    start = 0
    if leads:
        run.create(inputs)
        start = run.resume(steps)
    if arguments.distributed:
        from jax.experimental import multihost_utils

        start = int(multihost_utils.broadcast_one_to_all(start))
    if start < steps[-1]:
        if leads:
            run.add_start(start)
        _train(arguments.model, manifest["architecture"], settings, rows, run)
    elif leads:  # a kill right after the last checkpoint may have left these two undone
        run.prune(steps)
        Trackers(run.folder, run.history(start), {"wandb_project": None}, "").close()
    if leads:
        write_artifacts(arguments.output, run, steps, settings, len(rows))


def _train(model_folder: Path, architecture: Mapping | str, settings: Mapping, rows: list[dict], run: Run) -> None:
    """Trains from the run's newest checkpoint to the end."""
    training_settings = settings["training"]
    print(f"{len(rows)} prompts, {training_settings['max_steps']} steps", flush=True)
    jax_setup.configure_jax()
    from gsm8k_grpo.common.process_memory import memory_used
    from gsm8k_grpo.grpo.loop import train_to_end
    from gsm8k_grpo.grpo.session import make_learner
    from gsm8k_grpo.models.building import tunix_config
    from gsm8k_grpo.models.mesh import make_mesh
    from gsm8k_grpo.preflight.memory_check import require_training_memory

    mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
    require_training_memory(tunix_config(architecture), training_settings, settings["prompt"]["max_tokens"], mesh)
    train_to_end(make_learner(model_folder, settings, rows, run, mesh), training_settings, run)
    if jax_setup.is_lead_process():
        run.add_memory(memory_used())


if __name__ == "__main__":
    run_stage(main)
