"""Begins a training run, or goes on with it: what each of its processes does before the first step."""

from gsm8k_grpo.common import jax_setup
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.trackers import Trackers


def begin_run(run: Run, inputs: dict, kept_steps: list[int], distributed: bool) -> tuple[int, bool]:
    """Prepares the folder of a run that keeps the checkpoints of `kept_steps`. JAX starts only if it is distributed.

    Returns the last finished step, which is the same in all processes, and whether this process leads. Only the leading
    process writes.
    """
    if distributed:
        jax_setup.configure_jax()
        jax_setup.join_processes()
    leads = not distributed or jax_setup.is_lead_process()
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
    return start, leads
