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
    """Runs Tunix's uncompiled training step, which updates model and optimizer in place.

    Returns:
      what the trainer logs: (loss, figures, gradient norm).
    """
    return trainer.create_train_step_fn()(model, optimizer, example)


def latest_train_metrics(trainer: Any) -> Any:
    """The newest update's metrics buffer: `losses` and `additional_metrics`.

    The trainer keeps it in `_prev_buffered_train_metrics` until the next update, and gives it to metric loggers only.
    """
    return trainer._prev_buffered_train_metrics


def replace_class(module: Any, kind: type) -> None:
    """Turns a finished module into one of a subclass, with its weights.

    Tunix's models name the classes of their parts in their constructors and take no others. Assigning `__class__` keeps
    the module's variables, paths and random draws as they are.
    """
    module.__class__ = kind


def normalise_query_and_key(attention: Any, query: Any, key: Any) -> tuple:
    """Applies the norms of Gemma 3's attention, which it keeps in `_query_norm` and `_key_norm`."""
    return attention._query_norm(query), attention._key_norm(key)
