"""Checks that an artifact has what the page needs, so that the page can leave out artifacts of another version."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import read_yaml

# JSON Schema takes 100.0 for an integer, which Python's range() does not, and NaN and infinity for numbers.
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
SCHEMA = Path(__file__).with_name("artifacts.schema.yaml")


def read(path: Path, kind: str) -> dict:
    """The contents of a JSON artifact.

    Args:
      path: the file.
      kind: a name in artifacts.schema.yaml.

    Raises:
      PipelineError: it cannot be read, or lacks something that the page needs.
    """
    content = files.read_json(path)
    check(content, path, kind)
    return content


def check(content: Any, path: Path, kind: str) -> None:
    """Raises a PipelineError that names file and key if the content lacks something that the page needs."""
    error = jsonschema.exceptions.best_match(_validator(kind).iter_errors(content))
    if error is None:
        return
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "required":
        key = next(name for name in error.validator_value if name not in error.instance)
        fault = f"has no key {f'{where}.{key}' if where else key}"
    else:
        fault = f"{where or 'the content'} has an unexpected type or value"
    raise PipelineError(f"{path}: {fault}; another version of the pipeline wrote it, make it again")


@functools.cache
def _validator(kind: str) -> jsonschema.Validator:
    definitions: Mapping = read_yaml(SCHEMA)["$defs"]
    return Validator({"$defs": definitions, "$ref": f"#/$defs/{kind}"})
