"""What training writes at each step: rows, kept completions, checkpoints."""

import re
import time
from collections.abc import Mapping

import numpy as np
import optax
from flax import nnx
from tunix.rl import rl_cluster as cluster_lib

from gsm8k_grpo.common import errors
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.progress import Progress
from gsm8k_grpo.grpo import health
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.run_folder import Run, StepLog
from gsm8k_grpo.grpo.trackers import Trackers
from gsm8k_grpo.models.lora import trained_variables


class Recorder:
    """What a run leaves beside its checkpoints: rows, kept completions, trackers, progress, warnings."""

    def __init__(self, folder: Run, history: list[dict], settings: Mapping, promised: list[int]):
        """
        Args:
          folder: of the run.
          history: the rows of the steps made before; rows recorded are appended to it.
          settings: the block `training`.
          promised: the steps whose checkpoints are listed with `record`.
        """
        self._folder, self._history, self._promised = folder, history, promised
        self._kept_completions = settings["kept_completions"]
        self._log = StepLog(folder)
        self._trackers = Trackers(folder.folder, history, settings, folder.folder.name)
        self._progress = Progress("training", settings["max_steps"], "steps", done=len(history))
        self.saved = len(history)  # the newest step with a checkpoint
        if history:
            print(f"resuming after step {len(history)} of {settings['max_steps']}", flush=True)

    @property
    def recorded(self) -> int:
        """The newest step with a row."""
        return len(self._history)

    def record(self, row: dict, samples: list[dict]) -> None:
        """One step; `row["tokens"]` counts this step's, what is recorded counts all so far."""
        row["tokens"] += self._history[-1]["tokens"] if self._history else 0
        kept = row["step"] in self._promised
        self._history.append(row)
        self._log.append(row, samples[: self._kept_completions] if kept or row["step"] == 1 else [])
        if kept:
            self.commit(row["step"])
        self._trackers.log(row)
        for warning in health.warnings(self._history):
            print(f"WARNING: {warning}", flush=True)
        self._progress.advance(reward=row["reward"], kl=row["kl"] or 0.0)

    def commit(self, step: int) -> None:
        """Lists a step's checkpoint, which is on the disk, after all rows up to it are."""
        self._log.sync()
        self._folder.commit(step)
        self.saved = step

    def close(self) -> None:
        """At the end of a run."""
        self._log.close()
        self._trackers.close()
        self._folder.prune(self._promised)


def write_checkpoint(learner: Learner, settings: Mapping, folder: Run) -> float:
    """Adapters and optimizer state of the newest step, on the disk when this returns.

    Returns:
      the seconds that it took.

    Raises:
      PipelineError: they cannot be written; the checkpoints before stand.
    """
    step, trainer, started = learner.steps_done, learner.rl_cluster.actor_trainer, time.perf_counter()
    if not np.isfinite(float(optax.global_norm(nnx.state(trainer.model, trained_variables(settings["lora"]))))):
        raise PipelineError(
            f"step {step}: its update made weights that are no numbers; training stopped, the last checkpoint stands. "
            "Lower training.learning_rate"
        )
    try:
        with errors.silent_stderr():
            trainer.checkpoint_manager.save(
                step * settings["num_iterations"],
                trainer.model,
                trainer.optimizer,
                save_only_lora_params=settings["lora"] is not None,
                force=True,
                custom_metadata={"global_step": step, "role": cluster_lib.Role.ACTOR.value},
            )
    except Exception as error:  # Orbax, TensorStore and the system each have their own
        system = re.search(r"([^:]+) \[os_error_code", str(error))  # at the end of TensorStore's long text
        reason = (system[1] if system else str(error) or type(error).__name__).strip().splitlines()[0][:200]
        raise PipelineError(
            f"{folder.checkpoint(step)}: the checkpoint of step {step} cannot be written ({reason}); the ones before "
            "stand. Free some space or make the folder writable, then run the same command again"
        ) from error
    return time.perf_counter() - started
