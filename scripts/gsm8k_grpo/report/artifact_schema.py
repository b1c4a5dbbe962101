"""What the page needs of each artifact: one of another version is named and left out, and the page is still made."""

import functools
import math
from collections.abc import Callable, Mapping
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


def reader(kind: str) -> Callable[[Path], dict]:
    """What reads an artifact, for `story.Reader`.

    Args:
      kind: a name in schemas/artifacts.schema.yaml.
    """
    return functools.partial(read, kind=kind)


def read(path: Path, kind: str) -> dict:
    """The contents of an artifact.

    Raises:
      PipelineError: it cannot be read, or lacks what the page needs.
    """
    return checked(files.read_json(path), path, kind)


def checked(found: Any, path: Path, kind: str) -> dict:
    """`found`, if it has what the page needs; else a PipelineError that names file and key."""
    error = jsonschema.exceptions.best_match(_validator(kind).iter_errors(found))
    if error is None:
        return found
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "required":
        key = next(name for name in error.validator_value if name not in error.instance)
        fault = f"no key {f'{where}.{key}' if where else key}"
    else:
        fault = f"{where or 'the whole'} is not what was expected"
    raise PipelineError(f"{path}: {fault}; another version of the pipeline wrote it, make it again")


@functools.cache
def _validator(kind: str) -> jsonschema.Validator:
    definitions: Mapping = read_yaml(SCHEMA)["$defs"]
    return Validator({"$defs": definitions, "$ref": f"#/$defs/{kind}"})
