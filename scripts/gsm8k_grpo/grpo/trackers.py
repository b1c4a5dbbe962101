"""Sends the rows of a run to TensorBoard, and to Weights & Biases if the settings ask for it."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.internals import tensorboard_internals, wandb_internals

tensorboard = tensorboard_internals.import_without_torch()


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
        self._folder = folder / "tensorboard"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        # Not SummaryWriter: its thread ends on a full disk, and then training would wait for it for ever.
        self._board = tensorboard.event_file_writer.EventsWriter(str(self._folder / "events"))
        self._wandb = _wandb_run(folder, training_settings, name) if training_settings["wandb_project"] else None
        for row in history:
            self.log(row)

    def log(self, row: dict) -> None:
        """Logs one step's metrics.

        Raises:
          OSError: they cannot be written.
        """
        metrics = {name: value for name, value in row.items() if name != "step" and value is not None}
        try:
            for name, value in metrics.items():
                summary = tensorboard.summary.scalar(name, value)
                event = tensorboard.proto.event_pb2.Event(wall_time=time.time(), step=row["step"], summary=summary)
                self._board.write_event(event)
            self._board.flush()
        except OSError as error:
            error.filename = str(self._folder)
            raise
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
