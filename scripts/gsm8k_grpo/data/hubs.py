"""Fetching models and data sets from Hugging Face and Kaggle through their own clients.

Downloads resume, attempts are limited, contents are checked, and each failure is one sentence. Files stay in the
clients' own caches and are used from there without a network.

The clients read credentials themselves, from the environment (HF_TOKEN, KAGGLE_USERNAME and KAGGLE_KEY) or from their
own files. Nothing here reads, prints or records a credential.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import hub_errors, model_files, retries
from gsm8k_grpo.internals import kagglehub_internals

# Model files that a cache filled by another program may lack, while `check_model_folder` finds all that it needs.
OPTIONAL_FILES = ("generation_config.json", "tokenizer_config.json")
COMMIT = re.compile("[0-9a-f]{40}")


def fetch_model(model_settings: Mapping) -> tuple[Path, dict]:
    """A base model's published files, downloaded or from where they already are.

    Args:
      model_settings: the block `model`, with source `kaggle`, `huggingface` or `local`.

    Returns:
      The folder (config.json, tokenizer and safetensors as on Hugging Face, or Kaggle's Flax layout), and its origin:
      `source`, `handle` or `path`, `revision` (as in the settings), `commit` or `version` (which that was), `files`
      (name → `sha256`, `bytes`) and `warning` (text if the revision may be another one tomorrow, else null).

    Raises:
      PipelineError: one sentence with the reason and the remedy.
    """
    source = model_settings["source"]
    if source == "local":
        folder = Path(model_settings["path"])
        require_local_folder(folder)
        model_files.check_model_folder(folder)
        files = model_files.local_hashes(folder)
        return folder, {"source": source, "path": str(folder), "files": files, "warning": None}
    handle, revision = model_settings["handle"], model_settings["revision"]
    folder, origin = fetch(source, "model", handle, revision, model_files.MODEL_FILES)
    model_files.check_model_folder(folder)
    return folder, origin


def require_local_folder(folder: Path) -> None:
    """Refuses a folder of a model (`model.path`) that is not there."""
    if not folder.is_dir():
        raise PipelineError(f"model.path: {folder} is not a folder; name the one with the model's files")


def fetch(hub: str, kind: str, handle: str, revision: str | int | None, wanted: tuple[str, ...]) -> tuple[Path, dict]:
    """A repository's files in the client's cache, and their origin (see `fetch_model`).

    Args:
      hub: `huggingface` or `kaggle`.
      kind: `model` or `dataset`.
      handle: OWNER/NAME; a model on Kaggle is OWNER/MODEL/FRAMEWORK/VARIATION.
      revision: a commit, branch or tag on Hugging Face, or a version number on Kaggle; None is the newest.
      wanted: patterns of the files to fetch from Hugging Face. Kaggle's client fetches whole versions.
    """
    cache = hub_errors.cache_folder(hub)
    print(f"fetching {kind} {handle} from {hub_errors.HUB_NAMES[hub]} (cache: {cache})", flush=True)
    try:
        if hub == "huggingface":
            folder, resolved, files = _fetch_huggingface(kind, handle, revision, wanted)
        else:
            folder, resolved, files = _fetch_kaggle(kind, handle, revision)
    except Exception as error:
        explained = hub_errors.explain(error, hub, kind, handle, revision)
        if explained is None:
            raise
        raise PipelineError(explained) from None
    name = "commit" if hub == "huggingface" else "version"
    warning = _revision_warning(hub, revision, name, resolved) if kind == "model" else None
    if warning:
        print(f"WARNING: {warning}", flush=True)
    origin = {"source": hub, "handle": handle, "revision": revision, name: resolved}
    return folder, {**origin, "files": files, "warning": warning}


def _revision_warning(hub: str, revision: str | int | None, name: str, resolved: str | int | None) -> str | None:
    """The warning for a model's revision that may be another one tomorrow."""
    pinned = COMMIT.fullmatch(str(revision)) if hub == "huggingface" else revision is not None
    if pinned:
        return None
    given = f"{revision!r} can move" if revision is not None else "none is given, so the newest was taken"
    if resolved is None:  # Kaggle's and Colab's notebooks mount data without a version
        now = f"Kaggle does not say which {name} this is; write its number there, from the model's page"
    else:
        now = f"it is now {name} {resolved}; write that there to get the same again"
    return f"model.revision: {given}: {now}"


def _fetch_huggingface(kind: str, handle: str, revision: str | None, wanted: tuple[str, ...]) -> tuple[Path, str, dict]:
    """(snapshot folder, commit, files with hashes)."""
    import huggingface_hub

    from gsm8k_grpo.internals import huggingface_internals

    huggingface_internals.resume_downloads()
    huggingface_internals.hide_signatures()
    revision = None if revision is None else str(revision)

    def attempt() -> tuple[Path, dict]:
        folder = Path(
            huggingface_hub.snapshot_download(handle, repo_type=kind, revision=revision, allow_patterns=list(wanted))
        )
        if kind == "model":
            _require_complete(handle, folder)
        return folder, _verified_hashes(folder, wanted)

    folder, files = retries.retry(attempt)
    if not files:
        raise PipelineError(f"{kind}.handle: {handle} has none of the files {', '.join(wanted)}; name another {kind}")
    return folder, folder.name, files


def _require_complete(handle: str, snapshot: Path) -> None:
    """Refuses a snapshot that lacks `OPTIONAL_FILES` and that the client could not compare with the list of files.

    Without a network, the client compares a snapshot with the list that it has cached. If another program filled the
    cache, there may be no such list; then the client takes any snapshot.
    """
    import huggingface_hub
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    missing = [name for name in OPTIONAL_FILES if not (snapshot / name).is_file()]
    if not missing:
        return
    try:
        huggingface_hub.get_cached_repo_tree(handle, revision=snapshot.name)
    except CachedRepoTreeNotFoundError:
        raise PipelineError(
            f"model.handle: {handle} is not complete in {hub_errors.cache_folder('huggingface')}: {missing[0]} is "
            "missing, and Hugging Face cannot be asked for it; fetch the model once with a connection, and without "
            "HF_HUB_OFFLINE"
        ) from None


def _verified_hashes(snapshot: Path, wanted: tuple[str, ...]) -> dict[str, dict]:
    """Hashes of a snapshot in huggingface_hub's cache, where each file is a link to a blob named by its checksum.

    The client compares sizes only. Its `verify_repo_checksums` needs a network, and would read all files once more.

    Raises:
      retries.Damaged: a blob with other contents; it is removed, so that the next attempt fetches it again.
    """
    from huggingface_hub.utils import sha

    found = model_files.hashes(snapshot, wanted)
    for name, facts in found.items():
        link = snapshot / name
        if not link.is_symlink():  # the file system has no links
            continue
        blob = link.parent / os.readlink(link)
        if len(blob.name) == 64:  # large files
            checksum = facts["sha256"]
        elif COMMIT.fullmatch(blob.name):  # small files
            checksum = sha.git_hash(blob.read_bytes())
        else:
            continue
        if checksum != blob.name:
            blob.unlink()
            link.unlink()
            raise retries.Damaged(name)
    return found


def _fetch_kaggle(kind: str, handle: str, version: int | None) -> tuple[Path, int | None, dict]:
    """(folder, version number if it is known, files with hashes)."""
    os.environ.setdefault("TQDM_MININTERVAL", "30")  # few lines of progress in a log
    import huggingface_hub
    import kagglehub
    from huggingface_hub.errors import OfflineModeIsEnabled

    parsed = kagglehub_internals.parse_handle(kind, handle)
    if version is not None:
        parsed = parsed.with_version(int(version))
    cached = kagglehub_internals.cached_folder(parsed)
    if huggingface_hub.is_offline_mode():  # HF_HUB_OFFLINE counts for Kaggle too, which has no such switch
        if cached is None:
            raise OfflineModeIsEnabled(handle)
        folder = cached
    else:
        download = kagglehub.model_download if kind == "model" else kagglehub.dataset_download
        try:
            folder = Path(retries.retry(lambda: download(str(parsed)), give_up_unreachable=cached is not None))
        except Exception as error:
            if cached is None or not retries.is_unreachable(error):
                raise
            print(f"Kaggle cannot be reached ({retries.describe(error)}): using {cached}", flush=True)
            folder = cached
    # A folder of the cache is named by its version. Folders that notebooks of Kaggle and Colab mount are not.
    return folder, int(folder.name) if folder.name.isdecimal() else parsed.version, model_files.hashes(folder)
