"""The hashes of a base model's files in its model.json. JAX is not imported here."""

from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError


def remedy(folder: Path) -> str:
    """What to do about a model's folder with a damaged part, as the end of an error."""
    return f"delete {folder} and run Snakemake again, which makes it anew"


def require_recorded(path: Path, found: str, recorded: str) -> None:
    """Refuses a part of a model's folder that is not as it was when the stage `base_model` wrote it.

    Args:
      path: the part, which lies beside model.json.
      found: its SHA-256.
      recorded: the one in model.json.
    """
    if found != recorded:
        raise PipelineError(
            f"{path}: has changed since it was made (its SHA-256 is {found}, model.json says {recorded}); "
            f"{remedy(path.parent)}"
        )


def require_recorded_tokenizer(folder: Path, manifest: dict) -> None:
    """Does so for the tokenizer of a model's folder, with the content of its model.json."""
    path = folder / "tokenizer.model"
    if path.is_file():  # `load_tokenizer` names one that is missing
        require_recorded(path, files.sha256_file(path), manifest["sha256"]["tokenizer"])
