"""The types and limits of all settings."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path

import jsonschema

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.merging import read_yaml

# JSON Schema takes 100.0 for an integer, which Python's range() does not, and YAML's .nan and .inf for numbers.
_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
    {
        "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda _, value: (
            not isinstance(value, bool)
            and (isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)))
        ),
    }
)
Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)


@functools.cache
def config_schema(root: Path = ROOT) -> dict:
    """The configuration's JSON schema."""
    return read_yaml(root / "schemas" / "config.schema.yaml")


def check_types(settings: Mapping, where: str) -> None:
    """Validates merged settings by the schema alone."""
    errors = sorted(
        Validator(config_schema()).iter_errors(settings), key=lambda error: [str(part) for part in error.absolute_path]
    )
    if errors:
        raise PipelineError(f"{where}: {error_sentence(jsonschema.exceptions.best_match(errors))}")


def error_sentence(error: jsonschema.ValidationError) -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "top level"
    if error.validator == "additionalProperties":
        unknown = sorted(map(str, set(error.instance) - set(error.schema["properties"])))
        known = ", ".join(error.schema["properties"])
        prefix = "" if key == "top level" else f"{key}."
        return f"{prefix}{unknown[0]}: unknown key; there are {known}"
    if error.validator == "type" and isinstance(error.instance, str) and "number" in error.schema["type"]:
        return f"{key}: {error.instance!r} is text, expected a number (write 1.0e-6: YAML reads 1e-6 as text)"
    if error.validator == "required":
        return f"{key}: {error.message}"
    described = error.schema.get("description") or (error.parent and error.parent.schema.get("description"))
    return f"{key}: {error.message}" + (f" ({described.rstrip('.')})" if described else "")
