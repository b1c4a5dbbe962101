"""Everything that training writes in each step: rows of metrics.jsonl, kept completions, checkpoints."""

import time
from collections.abc import Mapping

import jax
import numpy as np
import optax
from flax import nnx
from tunix.rl.rl_cluster import Role

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.progress import Progress
from gsm8k_grpo.grpo import health
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.run_folder import Run, StepLog
from gsm8k_grpo.grpo.trackers import Trackers
from gsm8k_grpo.models import storage
from gsm8k_grpo.models.lora import trained_variables


class Recorder:
    """Writes rows, kept completions and trackers, and prints progress and warnings."""

    def __init__(self, run: Run, history: list[dict], training_settings: Mapping, saved_steps: list[int]):
        """
        Args:
          history: the rows of the steps before; `record` appends to it.
          saved_steps: the steps after which a checkpoint is written.
        """
        self._run, self._history, self._saved_steps = run, history, saved_steps
        self._kept_completions = training_settings["kept_completions"]
        self._log = StepLog(run)
        self._trackers = Trackers(run.folder, history, training_settings, run.folder.name)
        self._progress = Progress("training", training_settings["max_steps"], "step", done=len(history))
        self.newest_checkpoint = len(history)
        if history:
            print(f"resuming after step {len(history)} of {training_settings['max_steps']}", flush=True)

    @property
    def newest_row(self) -> int:
        """The newest step with a row."""
        return len(self._history)

    def record(self, row: dict, samples: list[dict]) -> None:
        """Records one step. `row["tokens"]` comes as this step's count and is recorded as the sum so far."""
        row["tokens"] += self._history[-1]["tokens"] if self._history else 0
        saved = row["step"] in self._saved_steps
        self._history.append(row)
        self._log.append(row, samples[: self._kept_completions] if saved or row["step"] == 1 else [])
        if saved:
            self.commit_checkpoint(row["step"])
        self._trackers.log(row)
        for warning in health.warnings(self._history):
            print(f"WARNING: {warning}", flush=True)
        self._progress.advance(**{name: row[name] for name in ("reward", "kl") if row[name] is not None})

    def commit_checkpoint(self, step: int) -> None:
        """Lists a step's checkpoint, which is on the disk, once all rows up to it are on the disk too."""
        self._log.sync()
        self._run.commit_checkpoint(step)
        self.newest_checkpoint = step

    def close(self) -> None:
        """Ends the run, or its part in this session."""
        self._log.close()
        self._trackers.close()


def write_checkpoint(learner: Learner, training_settings: Mapping, run: Run) -> float:
    """Writes adapters and optimizer state of the newest step to the disk.

    Returns:
      the seconds that it took.

    Raises:
      PipelineError: the weights are not finite, or the files cannot be written. Earlier checkpoints stay.
    """
    step, trainer, started = learner.steps_done, learner.rl_cluster.actor_trainer, time.perf_counter()
    trained = nnx.state(trainer.model, trained_variables(training_settings["lora"]))
    if not np.isfinite(float(jax.jit(optax.global_norm)(trained))):
        raise PipelineError(
            f"step {step}: the update made weights that are not finite, so training stopped after the last checkpoint; "
            "lower training.learning_rate"
        )
    with storage.writing(f"{run.checkpoint(step)}: the checkpoint of step {step}", ", and the ones before it stay"):
        trainer.checkpoint_manager.save(
            step * training_settings["num_iterations"],
            trainer.model,
            trainer.optimizer,
            save_only_lora_params=training_settings["lora"] is not None,
            force=True,
            custom_metadata={"global_step": step, "role": Role.ACTOR.value},
        )
    return time.perf_counter() - started
