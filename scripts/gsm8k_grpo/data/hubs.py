"""Fetching from Hugging Face and Kaggle through their own clients.

Retries are bounded, a partial download is resumed, contents are checked, and each failure is one sentence. What was
fetched lies in the clients' own caches and is used from there without a network.

Credentials are the clients' business: they read them from the environment (HF_TOKEN, KAGGLE_USERNAME and KAGGLE_KEY) or
from their own files. Nothing here reads, prints or records one.
"""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import hub_errors, model_files, retries
from gsm8k_grpo.internals import kagglehub_internals

# Of those, what a cache that another program filled in part may lack without anything else missing it.
BESIDE = ("generation_config.json", "tokenizer_config.json")
COMMIT = re.compile("[0-9a-f]{40}")


def fetch_model(model: Mapping) -> tuple[Path, dict]:
    """A base model's published files, downloaded or from where they already lie.

    Args:
      model: the block `model`, with source `kaggle`, `huggingface` or `local`.

    Returns:
      The folder (config.json, tokenizer and safetensors as on Hugging Face, or Kaggle's Flax layout), and its origin:
      `source`, `handle` or `path`, `revision` (as asked for), `commit` or `version` (what that was), `files` (name →
      `sha256`, `bytes`) and `warning` (text where the revision may be another one tomorrow, else null).

    Raises:
      PipelineError: in one sentence, why not and what to do.
    """
    source = model["source"]
    if source == "local":
        folder = Path(model["path"])
        if not folder.is_dir():
            raise PipelineError(f"model.path: {folder} is not a folder; name the one with the model's files")
        model_files.check_model_folder(folder)
        return folder, {
            "source": source,
            "path": str(folder),
            "files": model_files.local_hashes(folder),
            "warning": None,
        }
    folder, origin = fetch(source, "model", model["handle"], model["revision"], model_files.MODEL_FILES)
    model_files.check_model_folder(folder)
    return folder, origin


def fetch(
    source: str, kind: str, handle: str, revision: str | int | None, wanted: tuple[str, ...]
) -> tuple[Path, dict]:
    """A repository's files in the client's cache, and their origin (see `fetch_model`).

    Args:
      source: `huggingface` or `kaggle`.
      kind: `model` or `dataset`.
      handle: OWNER/NAME; on Kaggle a model is OWNER/MODEL/FRAMEWORK/VARIATION.
      revision: a commit, branch or tag of Hugging Face, or a version number of Kaggle; null is the newest.
      wanted: patterns of the files to fetch from Hugging Face. (Kaggle hands out whole versions.)
    """
    hub = _huggingface if source == "huggingface" else _kaggle
    print(
        f"fetching {kind} {handle} from {hub_errors.HUB_NAMES[source]} (cache: {hub_errors.cache_folder(source)})",
        flush=True,
    )
    try:
        folder, resolved, found = hub(kind, handle, revision, wanted)
    except Exception as error:
        explained = hub_errors.explain(error, source, kind, handle, revision)
        if explained is None:
            raise
        raise PipelineError(explained) from None
    name = "commit" if source == "huggingface" else "version"
    warning = None
    pinned = COMMIT.fullmatch(str(revision)) if source == "huggingface" else revision is not None
    if kind == "model" and not pinned:
        asked = f"{revision!r} can move" if revision is not None else "none is given, so the newest was taken"
        now = f"it is now {name} {resolved}; write that there to get the same again"
        if resolved is None:  # Kaggle's and Colab's notebooks mount data without saying so
            now = f"Kaggle does not say which {name} this is; write its number there, from the model's page"
        warning = f"model.revision: {asked}: {now}"
        print(f"WARNING: {warning}", flush=True)
    origin = {"source": source, "handle": handle, "revision": revision, name: resolved}
    return folder, {**origin, "files": found, "warning": warning}


def _huggingface(kind: str, handle: str, revision: str | None, wanted: tuple[str, ...]) -> tuple[Path, str, dict]:
    """(snapshot folder, commit, files with hashes)."""
    import huggingface_hub
    from huggingface_hub import constants, file_download

    def resumed(
        incomplete_path, destination_path, url_to_download, headers, expected_size, tqdm_class=None, **_
    ) -> None:
        """huggingface_hub 1.33 deletes what a failed or killed download had got; this one goes on from it."""
        if destination_path.exists():
            return
        with incomplete_path.open("ab") as partial:
            if expected_size is not None and partial.tell() > expected_size:
                partial.truncate(0)
                partial.seek(0)
            file_download.http_get(
                url_to_download,
                partial,
                resume_size=partial.tell(),
                headers=headers,
                expected_size=expected_size,
                tqdm_class=tqdm_class,
                _nb_retries=0,  # without progress; trying again is `retried`'s
            )
        file_download._chmod_and_move(incomplete_path, destination_path)

    constants.HF_HUB_DISABLE_XET = True  # the plain protocol: it resumes, and is the one that tests can speak
    file_download._download_to_tmp_and_move = resumed
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_without_queries)

    def attempt() -> tuple[Path, dict]:
        folder = Path(
            huggingface_hub.snapshot_download(
                handle,
                repo_type=kind,
                revision=None if revision is None else str(revision),
                allow_patterns=list(wanted),
            )
        )
        if kind == "model":
            _require_beside(handle, folder)
        return folder, _verified(folder, wanted)

    folder, found = retries.retry(attempt)
    if not found:
        raise PipelineError(f"{kind}.handle: {handle} has none of the files {', '.join(wanted)}")
    return folder, folder.name, found


def _require_beside(handle: str, snapshot: Path) -> None:
    """Refuses a snapshot without `BESIDE` that the client could not compare with the repository's list of files.

    It keeps that list in `trees`. Without it and without a network, it takes any snapshot of a branch for whole.
    """
    missing = [name for name in BESIDE if not (snapshot / name).is_file()]
    if missing and not (snapshot.parents[1] / "trees" / f"{snapshot.name}.json").is_file():
        raise PipelineError(
            f"model.handle: {handle} is not whole in {hub_errors.cache_folder('huggingface')}: {missing[0]} is missing, and Hugging "
            "Face cannot be asked for it; fetch the model once with a connection, and without HF_HUB_OFFLINE"
        )


def _verified(snapshot: Path, wanted: tuple[str, ...]) -> dict[str, dict]:
    """Hashes of a snapshot in huggingface_hub's cache, where each file is a link to a blob named by its checksum.

    The client itself compares sizes only. A damaged file is removed, so that it is fetched again.
    """
    found = model_files.hashes(snapshot, wanted)
    for name, facts in found.items():
        pointer = snapshot / name
        if not pointer.is_symlink():  # a file system without links
            continue
        blob = pointer.parent / os.readlink(pointer)
        if len(blob.name) == 64:  # large files
            whole = facts["sha256"] == blob.name
        elif COMMIT.fullmatch(blob.name):  # small ones, as git hashes them
            content = blob.read_bytes()
            whole = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == blob.name
        else:
            continue
        if not whole:
            blob.unlink()
            pointer.unlink()
            raise retries.Damaged(name)
    return found


def _without_queries(record: logging.LogRecord) -> bool:
    """The client names addresses when it retries; what follows their `?` may be a signature."""
    record.msg, record.args = re.sub(r"\?\S+", "", record.getMessage()), ()
    return True


def _kaggle(kind: str, handle: str, version: int | None, _: tuple[str, ...]) -> tuple[Path, int | None, dict]:
    """(folder, version number where it is known, files with hashes)."""
    os.environ.setdefault("TQDM_MININTERVAL", "30")  # its progress bars, in a log
    import kagglehub

    parsed = kagglehub_internals.parse_handle(kind, handle)
    if version is not None:
        parsed = parsed.with_version(int(version))
    cached = kagglehub_internals.cached_folder(parsed)
    if _offline():
        if cached is None:
            raise hub_errors.NotFetched
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
    # A folder of the cache is named by its version. In notebooks of Kaggle and Colab the client mounts instead.
    return folder, int(folder.name) if folder.name.isdecimal() else parsed.version, model_files.hashes(folder)


def _offline() -> bool:
    """huggingface_hub's own switch, HF_HUB_OFFLINE, taken for Kaggle too."""
    import huggingface_hub

    return huggingface_hub.is_offline_mode()
