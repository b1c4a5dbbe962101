"""The rows of a run for TensorBoard, and for Weights & Biases when asked for."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import tensorboardX

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.internals import wandb_internals


class Trackers:
    """Passes each row on, so that no step is missing there, or there twice.

    A run that goes on passes all rows again: TensorBoard's files are written anew, and Weights & Biases (in another
    folder, where it is offline) leaves out the steps that it has.
    """

    def __init__(self, folder: Path, history: list[dict], settings: Mapping, name: str):
        """
        Args:
          folder: of the run.
          history: the rows of the steps before.
          settings: the block `training`; `wandb_project` asks for Weights & Biases.
          name: of the run, for Weights & Biases.
        """
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"))
        self._wandb = (
            _wandb_run(folder, settings["wandb_project"], name, settings) if settings["wandb_project"] else None
        )
        for row in history:
            self.log(row)
        self._board.flush()

    def log(self, row: dict) -> None:
        """One step's figures."""
        figures = {name: value for name, value in row.items() if name != "step" and value is not None}
        for name, value in figures.items():
            self._board.add_scalar(name, value, row["step"])
        if self._wandb:
            self._wandb.log(figures, step=row["step"])

    def close(self) -> None:
        """Writes what is left."""
        self._board.close()
        if self._wandb:
            import wandb

            self._wandb.finish()
            wandb.teardown()  # a process of its own still writes after `finish`: this waits for it


def _wandb_run(folder: Path, project: str, name: str, settings: Mapping) -> object:
    """A run of Weights & Biases that continues by its name: online when logged in, else in files below `folder`."""
    try:
        import wandb
    except ImportError:
        raise PipelineError(
            "training.wandb_project: the package wandb is not installed; pip install wandb, or set it to null"
        ) from None
    logged_in = wandb_internals.is_logged_in()
    return wandb.init(
        project=project,
        id=name,
        name=name,
        resume="allow" if logged_in else None,
        mode=None if logged_in else "offline",
        dir=str(folder),
        config=to_plain(settings),
        settings=wandb.Settings(silent=True, save_code=False, disable_git=True),
    )
