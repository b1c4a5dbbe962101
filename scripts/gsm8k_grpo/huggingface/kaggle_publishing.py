"""Uploads a finished export to Kaggle, as a version of a model's variation.

The client reads the credentials itself (KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json). Nothing here reads
or prints them.
"""

import tempfile
from pathlib import Path

import yaml

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import retries
from gsm8k_grpo.data.hub_errors import CREDENTIALS
from gsm8k_grpo.huggingface.export import exported_files
from gsm8k_grpo.internals import kagglehub_internals

# What Kaggle calls each kind of export, by the key of `export.FOLDERS`.
FRAMEWORKS = {"transformers": ("transformers",), "tunix": ("jax", "flax")}
LICENCES = {"apache-2.0": "Apache 2.0"}  # Kaggle's name; of other licences we do not know it


def publish(export: Path, handle: str, kind: str, replace: bool) -> str:
    """Uploads an export; returns the address of the model and its new version, as text.

    Kaggle overwrites nothing: each upload is a new version, which is the one that others get. So a variation that has
    a version is left alone without `replace`. A model that is made here is private.

    Args:
      export: the folder of a finished export.
      handle: OWNER/MODEL/FRAMEWORK/VARIATION.
      kind: of the export, a key of `FRAMEWORKS`.
      replace: whether to add a version to a variation that is there.

    Raises:
      PipelineError: the export is incomplete or was changed, the variation is there, or Kaggle refuses.
    """
    names = exported_files(export)
    framework = handle.split("/")[2]
    if framework not in FRAMEWORKS[kind]:
        raise PipelineError(
            f"--to: {handle} is of the framework {framework}, but an export for {kind} is of the framework "
            f"{FRAMEWORKS[kind][0]}: write that, or choose the other export with --kind"
        )
    import kagglehub

    parsed = kagglehub_internals.parse_handle("model", handle)
    try:
        version = retries.retry(lambda: kagglehub_internals.newest_version(parsed))
        if version and not replace:
            raise PipelineError(
                f"--to: {handle} has version {version} already: add --replace to upload a newer version, which others "
                "then get (Kaggle keeps the earlier ones), or name another variation"
            )
        notes = f"Export of {files.read_json(export / 'export.json')['recipe']}"
        with tempfile.TemporaryDirectory() as folder:
            for name in names:  # without the other files of the folder, such as a .git or your notes
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).symlink_to((export / name).absolute())
            retries.retry(lambda: kagglehub.model_upload(handle, folder, _licence(export / "README.md"), notes))
    except Exception as error:
        explained = None if isinstance(error, PipelineError) else _explain(error, handle)
        if explained is None:
            raise
        raise PipelineError(explained) from None
    return f"{parsed.to_url()} (version {(version or 0) + 1})"


def _licence(card: Path) -> str | None:
    """Kaggle's name of the licence that a card's metadata has, or None."""
    _, metadata, _ = card.read_text(encoding="utf-8").split("---\n", 2)
    return LICENCES.get(yaml.safe_load(metadata).get("license"))


def _explain(error: BaseException, handle: str) -> str | None:
    """One sentence about a failed upload and its remedy, or None for another error."""
    status = retries.status(error)
    if status in (401, 403):
        return (
            f"--to: Kaggle does not let you write to {handle}: it must be of your account or organisation; "
            f"{CREDENTIALS['kaggle']}"
        )
    if retries.is_transient(error):
        return (
            f"--to: {handle} could not be written in {retries.ATTEMPTS} attempts ({retries.describe(error)}): check "
            "the connection, then run the same command again"
        )
    if status is not None or retries.is_any(error, "BackendError"):
        said = f"status {status}" if status is not None else str(error).splitlines()[0][:200]
        return f"--to: {handle}: Kaggle refused ({said})"
    return None
