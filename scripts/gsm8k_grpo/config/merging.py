"""Nested settings: merging, reading YAML, and read-only views."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from gsm8k_grpo.common.errors import PipelineError

# Settings that change no result, as artifacts and parameters have them: another value of them reruns nothing.
WITHOUT_RESULT = {"stop_after_hours": None}


def merge(below: Mapping, above: Mapping) -> dict:
    """Puts `above` over `below`: mappings merge key by key, everything else is replaced whole."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse_scalars(value: Any) -> Any:
    """Reads numbers, booleans and nulls in what `--config` sets: Snakemake leaves those inside mappings as text."""
    if isinstance(value, Mapping):
        return {key: parse_scalars(item) for key, item in value.items()}
    if isinstance(value, list):
        return [parse_scalars(item) for item in value]
    if isinstance(value, str) and value:
        tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, value, (True, False))
        if tag.rpartition(":")[2] in ("int", "float", "bool", "null"):
            with contextlib.suppress(ValueError):  # thousands of digits: the text is refused where a number is expected
                return yaml.safe_load(value)
    return value


def read_yaml(path: Path) -> dict:
    """Reads a YAML file that holds one mapping, or nothing.

    Raises:
      PipelineError: the file is not valid YAML, or holds something else.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an impossible date such as 2024-13-01
        raise PipelineError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PipelineError(f"{path}: expected keys and values, found {type(value).__name__}")
    return value


def read_only(value: Any) -> Any:
    """A read-only copy of nested settings: mappings and tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: read_only(item) for key, item in value.items()})
    return tuple(read_only(item) for item in value) if isinstance(value, list) else value


def to_plain(value: Any) -> Any:
    """The same values as plain dicts and lists, to write or to hash."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
