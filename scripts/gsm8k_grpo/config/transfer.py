"""One item of `evaluation.transfer` on a command line."""

import yaml

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.schema import Settings, validated


def read_transfer_set(argument: str) -> dict:
    """An item of `evaluation.transfer`, whole.

    Args:
      argument: a name, or a block as JSON or YAML text.

    Raises:
      PipelineError: it is not valid YAML, or a key is faulty.
    """
    try:
        given = yaml.safe_load(argument)
    except yaml.YAMLError as error:
        raise PipelineError(f"--chosen: not valid YAML ({' '.join(str(error).split())})") from None
    evaluation = Settings().evaluation.model_dump() | {"transfer": [given]}
    return validated({"evaluation": evaluation}, "--chosen", ["evaluation"])["evaluation"]["transfer"][0]
