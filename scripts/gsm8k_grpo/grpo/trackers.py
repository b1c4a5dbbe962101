"""Sends the rows of a run to TensorBoard, and to Weights & Biases if the settings ask for it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import tensorboardX

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.internals import wandb_internals


class Trackers:
    """Logs each step once, also when a run resumes.

    A resumed run logs all rows again: TensorBoard's files are written anew, and Weights & Biases skips the steps that
    it has (offline, it writes to another folder).
    """

    def __init__(self, folder: Path, history: list[dict], training_settings: Mapping, name: str):
        """
        Args:
          folder: the run's folder.
          history: the rows of the steps before.
          training_settings: `wandb_project` turns Weights & Biases on.
          name: the run's name in Weights & Biases.
        """
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"))
        self._wandb = _wandb_run(folder, training_settings, name) if training_settings["wandb_project"] else None
        for row in history:
            self.log(row)
        self._board.flush()

    def log(self, row: dict) -> None:
        """Logs one step's metrics."""
        metrics = {name: value for name, value in row.items() if name != "step" and value is not None}
        for name, value in metrics.items():
            self._board.add_scalar(name, value, row["step"])
        if self._wandb:
            self._wandb.log(metrics, step=row["step"])

    def close(self) -> None:
        """Writes what is still in memory."""
        self._board.close()
        if self._wandb:
            import wandb

            self._wandb.finish()
            wandb.teardown()  # waits for wandb's own process, which still writes after `finish`


def _wandb_run(folder: Path, training_settings: Mapping, name: str) -> object:
    """A run of Weights & Biases that resumes by its name: online if the user is logged in, else in files in `folder`.

    Raises:
      PipelineError: the package wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise PipelineError(
            "training.wandb_project: the package wandb is not installed; install it with pip, or set the key to null"
        ) from None
    logged_in = wandb_internals.is_logged_in()
    return wandb.init(
        project=training_settings["wandb_project"],
        id=name,
        name=name,
        resume="allow" if logged_in else None,
        mode=None if logged_in else "offline",
        dir=str(folder),
        config=to_plain(training_settings),
        settings=wandb.Settings(silent=True, save_code=False, disable_git=True),
    )
