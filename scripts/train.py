r"""Stage `train`: GRPO with LoRA from the base model. The same command resumes a run that was killed or stopped.

  python scripts/train.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/train.jsonl \
      --model results/models/tiny --output results/tiny/training

Checkpoints are in runs/FINGERPRINT. The fingerprint is a hash of settings, prompts, weights, code, files of rewards and
library versions, and a checkpoint continues only a run with the same fingerprint. Writes metrics.csv (a row for each
step), samples.jsonl (some completions with their rewards), checkpoints.json and, last, summary.json.
"""

from contextlib import nullcontext
from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.command_line import ModelFolder, OutputFolder, Settings, run_stage
from gsm8k_grpo.common.folder_lock import only_process
from gsm8k_grpo.common.session_end import session_end
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.grpo.artifact_writing import write_artifacts
from gsm8k_grpo.grpo.kept_checkpoints import kept_steps
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.run_identity import run_inputs
from gsm8k_grpo.grpo.run_start import begin_run, join_run


def main(
    *,
    settings: Settings,
    rows: Path,
    model: ModelFolder,
    output: OutputFolder,
    distributed: bool = False,
    stop_after: float | None = None,
) -> None:
    """Runs the stage.

    Args:
      rows: prompts to train on
      distributed: this is one of several processes with the same --output, one on each host (see
        jax_setup.join_processes)
      stop_after: hours after which training stops itself, saved; the same command goes on
    """
    end = session_end(stop_after)
    settings = stage_settings(settings, "seed", "mesh", "prompt", "training")
    training_settings = settings["training"]
    prompts = files.read_jsonl(rows, keys=("id", "prompt", "answer", "prompt_tokens"))
    manifest = files.read_json(model / "model.json")
    inputs = run_inputs(settings, rows, manifest["sha256"])
    run = Run.of_inputs(output, inputs, training_settings["num_iterations"])
    steps = kept_steps(training_settings)
    leads = join_run(distributed)
    with only_process(run.folder) if leads else nullcontext():
        start = begin_run(run, inputs, steps, distributed, leads)
        if start < steps[-1]:
            jax_setup.configure_jax()
            from gsm8k_grpo.grpo.loop import train_to_end
            from gsm8k_grpo.grpo.session import make_learner
            from gsm8k_grpo.models.mesh import make_mesh
            from gsm8k_grpo.preflight.this_machine import require_training_memory

            mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
            require_training_memory(manifest, settings, mesh)
            train_to_end(make_learner(model, settings, prompts, run, mesh), training_settings, run, end)
        if leads:
            write_artifacts(output, run, steps, settings, len(prompts))


if __name__ == "__main__":
    run_stage(main)
