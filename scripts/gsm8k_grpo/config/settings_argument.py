"""The settings that one stage gets on its command line."""

import json
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.conflicts import check_settings
from gsm8k_grpo.config.merging import read_only, read_yaml
from gsm8k_grpo.config.schema import Settings, validated


def stage_settings(argument: str, *blocks: str) -> Mapping:
    """The blocks of settings that a stage's entry point needs, read-only.

    Args:
      argument: JSON text (as the rules pass it), or the path of a results/RECIPE/settings.yaml.
      blocks: top-level keys, all needed.

    Raises:
      PipelineError: no such file, no valid JSON, a block that is missing, or a faulty setting.
    """
    if argument.strip().startswith("{"):
        try:
            settings = json.loads(argument)
        except json.JSONDecodeError as error:
            raise PipelineError(f"--settings: not valid JSON ({error})") from None
    else:
        path = Path(argument)
        if not path.is_file():
            raise PipelineError(f"--settings: {argument}: no such file")
        settings = read_yaml(path)
        if Settings.model_fields.keys() <= settings.keys():  # someone runs a stage by hand with a settings.yaml
            check_settings(settings, argument)
    for block in blocks:
        if block not in settings:
            raise PipelineError(f"--settings: no block {block!r}; this stage needs {', '.join(blocks)}")
    return read_only(validated({block: settings[block] for block in blocks}, "--settings", blocks))
