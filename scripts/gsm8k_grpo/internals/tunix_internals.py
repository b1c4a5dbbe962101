"""Parts of Tunix that are private or that we replace, each with the reason. All were seen in Tunix 0.1.7."""

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any


def import_without_extras() -> None:
    """Lets modules of `tunix` be imported without running the package's `__init__`.

    `tunix/__init__.py` imports agents and distillation, and through them pandas: a quarter of a stage's import time.
    We register an empty package with the same search path in its place.
    """
    spec = importlib.util.find_spec("tunix")
    if spec and "tunix" not in sys.modules:
        package = types.ModuleType("tunix")
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
        sys.modules["tunix"] = package


def set_train_step(trainer: Any, function: Callable) -> None:
    """Makes a `PeftTrainer` call `function(example)` for each micro-batch.

    The trainer has no option for its compiled step. It keeps it in `_jitted_train_step_fn`, and compiles its own only
    where that is None.

    Args:
      trainer: a `tunix.sft.peft_trainer.PeftTrainer` or a subclass.
      function: returns what `run_train_step` returns. `jit_train_and_eval_step()` hands it out as it is.
    """
    trainer._jitted_train_step_fn = function


def run_train_step(trainer: Any, model: Any, optimizer: Any, example: Any) -> tuple:
    """Runs Tunix's uncompiled training step, which is the private method `_train_step`.

    It updates model and optimizer in place and returns what the trainer logs: (loss, figures, gradient norm).
    """
    return trainer._train_step(model, optimizer, example)


def latest_train_metrics(trainer: Any) -> Any:
    """The newest update's metrics buffer: `losses` and `additional_metrics`.

    The trainer keeps it in `_prev_buffered_train_metrics` until the next update, and gives it to metric loggers only.
    """
    return trainer._prev_buffered_train_metrics
