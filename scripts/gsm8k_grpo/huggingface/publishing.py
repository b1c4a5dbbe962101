"""Uploads a finished export to a repository on Hugging Face, in one commit.

The client reads the token itself (HF_TOKEN, or `hf auth login`). Nothing here reads or prints it.
"""

from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import retries
from gsm8k_grpo.data.hub_errors import TOKENS
from gsm8k_grpo.huggingface.export import exported_files

KEPT = ".gitattributes"  # every repository has it; it says which files are large


def publish(export: Path, handle: str, public: bool, replace: bool) -> str:
    """Uploads an export; returns the address of the commit.

    The repository is made if there is none. One that has files is left alone without `replace`; with it, the commit
    takes the place of all its files, and its history keeps the earlier ones.

    Args:
      export: the folder of a finished export.
      handle: OWNER/NAME.
      public: whether a repository that is made here can be seen by everyone.
      replace: whether to replace what a repository has.

    Raises:
      PipelineError: the export is incomplete or was changed, the repository has files, or the hub refuses.
    """
    names = exported_files(export)
    import huggingface_hub

    from gsm8k_grpo.internals import huggingface_internals

    huggingface_internals.disable_xet()
    huggingface_internals.hide_signatures()
    hub = huggingface_hub.HfApi()
    try:
        there, parent = retries.retry(lambda: _prepare(hub, handle, public))
        if there and not replace:
            raise PipelineError(
                f"--to: {handle} already has {len(there)} files ({min(there)}): add --replace to replace them all, or "
                "name another repository"
            )
        operations = [huggingface_hub.CommitOperationAdd(name, export / name) for name in names]
        operations += [huggingface_hub.CommitOperationDelete(name) for name in there if name not in names]
        message = f"Export of {files.read_json(export / 'export.json')['recipe']}"
        # Another attempt sends only what did not arrive. The parent keeps it from undoing what others commit meanwhile.
        commit = retries.retry(
            lambda: hub.create_commit(handle, operations, commit_message=message, parent_commit=parent)
        )
    except Exception as error:
        explained = None if isinstance(error, PipelineError) else _explain(error, handle)
        if explained is None:
            raise
        raise PipelineError(explained) from None
    return commit.commit_url


def _prepare(hub: object, handle: str, public: bool) -> tuple[list[str], str]:
    """Makes sure that there is a repository; (its files, its newest commit)."""
    hub.create_repo(handle, private=not public, exist_ok=True)
    commit = hub.model_info(handle).sha
    return [name for name in hub.list_repo_files(handle, revision=commit) if name != KEPT], commit


def _explain(error: BaseException, handle: str) -> str | None:
    """One sentence about a failed upload and its remedy, or None for another error."""
    status = retries.status(error)
    if retries.is_any(error, "HFValidationError"):
        return f"--to: {handle!r} is not the name of a repository; expected OWNER/NAME"
    if retries.is_any(error, "LocalTokenNotFoundError") or status in (401, 403):
        return (
            f"--to: Hugging Face does not let you write to {handle}: create a token at {TOKENS} with write access to "
            "it, and set HF_TOKEN to it"
        )
    if status in (409, 412):
        return f"--to: {handle} changed during the upload: look at what is new there, then run the same command again"
    if retries.is_any(error, "OfflineModeIsEnabled"):
        return f"--to: HF_HUB_OFFLINE is set: unset it to publish {handle}"
    if retries.is_transient(error):
        return (
            f"--to: {handle} could not be written in {retries.ATTEMPTS} attempts ({retries.describe(error)}): check "
            "the connection, then run the same command again: it goes on from what has arrived"
        )
    return f"--to: {handle}: Hugging Face refused ({retries.describe(error)})" if status is not None else None
