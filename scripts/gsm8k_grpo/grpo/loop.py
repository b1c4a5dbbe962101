"""The training loop."""

import math
import time
from collections.abc import Mapping

import jax

from gsm8k_grpo.common import jax_setup, session_end
from gsm8k_grpo.common.errors import NotFinished
from gsm8k_grpo.common.process_memory import memory_used
from gsm8k_grpo.common.units import duration_text
from gsm8k_grpo.grpo import health
from gsm8k_grpo.grpo.kept_checkpoints import kept_steps, saved_steps
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.preemption import Preemption
from gsm8k_grpo.grpo.recorder import Recorder, write_checkpoint
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.step_time import step_seconds


def train_to_end(learner: Learner, training_settings: Mapping, run: Run, end: float = math.inf) -> None:
    """Trains from the newest checkpoint up to `max_steps`; everything that is written goes to the run's folder.

    SIGTERM saves the newest whole step and ends the process within seconds.

    Args:
      end: of the session, in seconds since 1970. After the first step, none begins that would end later if it took as
        long as the one before.

    Raises:
      NotFinished: the session ends before `max_steps`; the newest step is saved.
    """
    history = run.history(learner.steps_done)
    to_save = saved_steps(training_settings)
    recorder = Recorder(run, history, training_settings, to_save) if jax_setup.is_lead_process() else None

    def save() -> str:
        if jax.process_count() > 1:
            return "the processes of one run do not stop together; training resumes from the last checkpoint"
        if recorder.newest_row < learner.steps_done:
            return f"step {learner.steps_done} went wrong; training resumes from the last checkpoint"
        if recorder.newest_checkpoint < learner.steps_done:
            write_checkpoint(learner, training_settings, run)
            recorder.commit_checkpoint(learner.steps_done)
        return f"step {learner.steps_done} is saved; the same command resumes from there"

    session_ends = False
    with Preemption(save) as preemption:
        while learner.steps_done < training_settings["max_steps"] and not session_ends:
            began = time.monotonic()
            batch = learner.sample()
            with preemption.lock:
                row = learner.update(batch)
                health.require_finite(row)
                row["checkpoint_seconds"] = 0.0
                session_ends = _together(session_end.comes_within(end, time.monotonic() - began))
                if row["step"] in to_save or session_ends:
                    row["checkpoint_seconds"] = write_checkpoint(learner, training_settings, run)
                if recorder:
                    recorder.record(row, batch.samples)
                    if session_ends and recorder.newest_checkpoint < row["step"]:
                        recorder.commit_checkpoint(row["step"])
                    if row["step"] in to_save:
                        run.prune(kept_steps(training_settings, row["step"]), row["step"])
    learner.rl_cluster.actor_trainer.checkpoint_manager.close()
    finished = learner.steps_done == training_settings["max_steps"]
    if recorder:
        recorder.close()
        run.prune(kept_steps(training_settings, learner.steps_done), learner.steps_done)
        run.add_memory(memory_used())
    if not finished:
        saved = f"step {learner.steps_done} of {training_settings['max_steps']} is saved"
        if not recorder:
            raise NotFinished(saved)
        left = training_settings["max_steps"] - learner.steps_done
        raise NotFinished(f"{saved}, the other {left} take about {duration_text(left * step_seconds(history))}")


def _together(decided: bool) -> bool:
    """What the leading process decided, in all processes of a run: clocks differ, and a step needs them all."""
    if jax.process_count() == 1:
        return decided
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(decided))
