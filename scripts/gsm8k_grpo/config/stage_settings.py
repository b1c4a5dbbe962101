"""The settings that one stage gets on its command line."""

import json
from collections.abc import Mapping
from pathlib import Path

import jsonschema

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.conflicts import check_settings
from gsm8k_grpo.config.merging import read_only, read_yaml
from gsm8k_grpo.config.schema import Validator, config_schema, error_sentence


def stage_settings(argument: str, *blocks: str) -> Mapping:
    """The blocks of settings that a stage's entry point needs, read-only.

    Args:
      argument: JSON text (as the rules pass it), or the path of a results/RECIPE/settings.yaml.
      blocks: top-level keys, all needed.
    """
    text = argument.strip()
    if text.startswith("{"):
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise PipelineError(f"--settings: not valid JSON ({error})") from None
    else:
        path = Path(argument)
        if not path.is_file():
            raise PipelineError(f"--settings: {argument}: no such file")
        settings = read_yaml(path)
        if config_schema()["properties"].keys() <= settings.keys():  # by hand, from a results/RECIPE/settings.yaml
            check_settings(settings, argument)
    for block in blocks:
        if block not in settings:
            raise PipelineError(f"--settings: no block {block!r}; this stage needs {', '.join(blocks)}")
        part = {**config_schema()["properties"][block], "$defs": config_schema()["$defs"]}
        errors = list(Validator(part).iter_errors(settings[block]))
        if errors:
            raise PipelineError(f"--settings: {block}: {error_sentence(jsonschema.exceptions.best_match(errors))}")
    return read_only({block: settings[block] for block in blocks})
