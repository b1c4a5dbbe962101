"""Begins a training run, or goes on with it: what each of its processes does before the first step."""

from gsm8k_grpo.common import jax_setup
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.trackers import Trackers


def join_run(distributed: bool) -> bool:
    """Joins the run's other processes if there are any; returns whether this one leads. Only that one writes.

    JAX starts only if the run is distributed.
    """
    if not distributed:
        return True
    jax_setup.configure_jax()
    jax_setup.join_processes()
    return jax_setup.is_lead_process()


def begin_run(run: Run, inputs: dict, kept_steps: list[int], distributed: bool, leads: bool) -> int:
    """Prepares the folder of a run that keeps the checkpoints of `kept_steps`.

    Returns the last finished step, which is the same in all processes.
    """
    start = 0
    if leads:
        run.create(inputs)
        start = run.resume(kept_steps)
    if distributed:
        from jax.experimental import multihost_utils

        start = int(multihost_utils.broadcast_one_to_all(start))
    if leads and start < kept_steps[-1]:
        run.add_start(start)
    elif leads:  # a kill right after the last checkpoint may have left these two undone
        run.prune(kept_steps, start)
        Trackers(run.folder, run.history(start), {"wandb_project": None}, "").close()
    return start
