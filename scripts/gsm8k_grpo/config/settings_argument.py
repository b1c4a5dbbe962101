"""The settings that one stage gets on its command line."""

import json
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.conflicts import check_settings
from gsm8k_grpo.config.merging import read_only, read_yaml
from gsm8k_grpo.config.schema import Settings, validated


def read_settings(argument: str) -> dict:
    """What `--settings` holds: JSON text, or a file of JSON or YAML.

    Raises:
      PipelineError: no such file, or not valid.
    """
    if argument.strip().startswith("{"):
        try:
            return json.loads(argument)
        except ValueError as error:  # an integer of more than 4,300 digits is valid JSON, but Python does not read it
            raise PipelineError(f"--settings: not valid JSON ({error})") from None
    path = Path(argument)
    if not path.is_file():
        raise PipelineError(
            f"--settings: {argument}: no such file; by hand, take results/RECIPE/settings.yaml. Snakemake writes those "
            "of results/logs/settings/ when it starts, not in a dry run: start it again if settings have changed since"
        )
    return files.read_json_object(path) if path.suffix == ".json" else read_yaml(path)


def stage_settings(argument: str, *blocks: str) -> Mapping:
    """The blocks of settings that a stage's entry point needs, read-only.

    Args:
      argument: a file of results/logs/settings/ (as the rules pass it), a results/RECIPE/settings.yaml, or JSON text.
      blocks: top-level keys, all needed.

    Raises:
      PipelineError: no such file, no valid JSON, a block that is missing, or a faulty setting.
    """
    settings = read_settings(argument)
    if not argument.strip().startswith("{") and Settings.model_fields.keys() <= settings.keys():
        check_settings(settings, argument)  # someone runs a stage by hand with a settings.yaml
    for block in blocks:
        if block not in settings:
            raise PipelineError(f"--settings: no block {block!r}; this stage needs {', '.join(blocks)}")
    return read_only(validated({block: settings[block] for block in blocks}, "--settings", blocks))
