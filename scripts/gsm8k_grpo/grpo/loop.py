"""The training loop."""

from collections.abc import Mapping

import jax

from gsm8k_grpo.common import jax_setup
from gsm8k_grpo.grpo import health
from gsm8k_grpo.grpo.checkpoint_names import checkpoint_steps
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.preemption import Preemption
from gsm8k_grpo.grpo.recorder import Recorder, write_checkpoint
from gsm8k_grpo.grpo.run_folder import Run


def train_to_end(learner: Learner, settings: Mapping, folder: Run) -> None:
    """Trains up to `max_steps` from wherever the newest checkpoint stands.

    SIGTERM saves the newest whole step and ends the process, in seconds.

    Args:
      learner: over a cluster of `make_cluster`.
      settings: the block `training`.
      folder: where rows, kept completions and checkpoints go.
    """
    first, alone = learner.steps_done, jax.process_count() == 1
    history = folder.history(first)
    promised = checkpoint_steps(settings["max_steps"], settings["checkpoint_interval_steps"])
    recorder = Recorder(folder, history, settings, promised) if jax_setup.is_lead_process() else None

    def stopped() -> str:
        if not alone:
            return "the processes of one run do not stop together; the last checkpoint stands"
        if recorder.recorded < learner.steps_done:
            return f"step {learner.steps_done} went wrong; the last checkpoint stands"
        if recorder.saved < learner.steps_done:
            write_checkpoint(learner, settings, folder)
            recorder.commit(learner.steps_done)
        return f"step {learner.steps_done} is saved; the same command goes on from there"

    with Preemption(stopped) as preemption:
        while learner.steps_done < settings["max_steps"]:
            batch = learner.sample()
            with preemption.lock:
                row = learner.update(batch)
                health.require_finite(row)
                row["checkpoint_seconds"] = 0.0
                if row["step"] in promised:
                    row["checkpoint_seconds"] = write_checkpoint(learner, settings, folder)
                if recorder:
                    recorder.record(row, batch.samples)
    learner.rl_cluster.actor_trainer.checkpoint_manager.close()
    if recorder:
        recorder.close()
