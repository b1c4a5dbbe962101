"""Tunix's own model classes and configurations, for who loads a model without this project."""

import dataclasses
import enum
from collections.abc import Mapping

import jax.numpy as jnp

from gsm8k_grpo.models import building


@dataclasses.dataclass(frozen=True)
class StockModel:
    """What Tunix itself needs to make a model.

    Attributes:
      kind: the class of the model.
      config: its configuration. Of a published size it has as many embeddings as Tunix's own.
      code: Python that gives the same configuration, where the class's module is imported as `models`.
    """

    kind: type
    config: object
    code: str


def stock_model(architecture: Mapping | str, dtype: str) -> StockModel:
    """Finds Tunix's own class and configuration of an architecture (`model.architecture`), with weights in `dtype`."""
    ours = building.tunix_config(architecture)
    kind = next(kind for kind in building.MODEL_CLASSES.values() if kind.config_class is type(ours))
    stock = next(each for each in kind.__mro__ if each.__module__.startswith("tunix."))
    preset = _preset(kind.config_class, architecture) if isinstance(architecture, str) else None
    theirs = getattr(kind.config_class, preset)() if preset else None
    names = {field.name for field in dataclasses.fields(ours)}
    changed = {name: jnp.dtype(dtype) for name in ("dtype", "param_dtype") if name in names}
    if theirs:
        changed["vocab_size" if "vocab_size" in names else "num_embed"] = building.vocabulary_size(theirs)
    config = dataclasses.replace(ours, **changed)
    return StockModel(stock, config, _code(config, theirs, preset))


def _preset(config_class: type, shape: str) -> str | None:
    """The method of Tunix's configuration that gives a published shape; it writes p for a point."""
    name = shape.replace(".", "p")
    return next((each for each in (name, f"{name}_it") if hasattr(config_class, each)), None)


def _code(config: object, preset: object | None, name: str | None) -> str:
    """The call that makes a configuration: of its class, or of a preset with what differs from it."""
    arguments = []
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(preset, field.name) if preset else field.default
        if value != usual:
            arguments.append(f"{field.name}={_literal(value)}")
    made = f"models.ModelConfig.{name}()"
    if preset is None:
        return f"models.ModelConfig({', '.join(arguments)})"
    return f"dataclasses.replace({made}, {', '.join(arguments)})" if arguments else made


def _literal(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"models.{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))},)"
    return f"jnp.{value.name}" if isinstance(value, jnp.dtype) else repr(value)
