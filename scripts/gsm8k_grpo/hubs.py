"""Fetching from Hugging Face and Kaggle through their own clients.

Retries are bounded, a partial download is resumed, contents are checked, and each failure is one sentence. What was
fetched lies in the clients' own caches and is used from there without a network.

Credentials are the clients' business: they read them from the environment (HF_TOKEN, KAGGLE_USERNAME and KAGGLE_KEY) or
from their own files. Nothing here reads, prints or records one.
"""

import fnmatch
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gsm8k_grpo import files, retries, settings
from gsm8k_grpo.errors import PipelineError

# What a model needs of a repository; other formats of the same weights (.bin, .gguf, .pth) stay where they are.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "LICENSE*",
)
# Of those, what a cache that another program filled in part may lack without anything else missing it.
BESIDE = ("generation_config.json", "tokenizer_config.json")
NAMES = {"huggingface": "Hugging Face", "kaggle": "Kaggle"}
TOKENS = "https://huggingface.co/settings/tokens"
CREDENTIALS = {
    "huggingface": f"create a token at {TOKENS} and set HF_TOKEN to it",
    "kaggle": "create a token at https://www.kaggle.com/settings and set KAGGLE_USERNAME and KAGGLE_KEY, or put its "
    "kaggle.json into ~/.kaggle",
}
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
        _check_model(folder)
        return folder, {"source": source, "path": str(folder), "files": local_hashes(folder), "warning": None}
    folder, origin = fetch(source, "model", model["handle"], model["revision"], MODEL_FILES)
    _check_model(folder)
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
    print(f"fetching {kind} {handle} from {NAMES[source]} (cache: {_cache(source)})", flush=True)
    try:
        folder, resolved, found = hub(kind, handle, revision, wanted)
    except Exception as error:
        explained = _explained(error, source, kind, handle, revision)
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


def local_hashes(folder: Path, known: Mapping = MappingProxyType({}), since: float = 0) -> dict[str, dict]:
    """`hashes` of the files of a model in a local folder; none where it holds no model (all of a disk, perhaps).

    Args:
      folder: the model's.
      known: their hashes at an earlier time.
      since: that time, in seconds since the epoch; what did not change after it is not read again.
    """
    if (folder / "config.json").is_file():
        return hashes(folder, MODEL_FILES, known, since)
    return hashes(folder, ("*",), known, since) if _is_flax(folder) else {}


def hashes(
    folder: Path, wanted: tuple[str, ...] = ("*",), known: Mapping = MappingProxyType({}), since: float = 0
) -> dict[str, dict]:
    """`sha256` and `bytes` of the files below a folder, hidden ones apart, by relative name.

    Args:
      folder: where to look.
      wanted: patterns of names.
      known, since: see `local_hashes`.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or not path.is_file() or not any(fnmatch.fnmatch(name, pattern) for pattern in wanted):
            continue
        facts = path.stat()
        # The time of the last change of any kind: unlike that of the contents, copying does not carry it over.
        same = name in known and known[name]["bytes"] == facts.st_size and facts.st_ctime < since
        sha256 = known[name]["sha256"] if same else files.sha256_file(path)
        found[name] = {"sha256": sha256, "bytes": facts.st_size}
    return found


def _is_flax(folder: Path) -> bool:
    """Whether a folder is laid out as Kaggle's of Flax."""
    return any(folder.glob("*/_METADATA")) and any(folder.glob("tokenizer*.model"))


def _check_model(folder: Path) -> None:
    """Refuses a folder that holds no model that can be loaded, before anything big is read."""
    if not (folder / "config.json").is_file():
        if _is_flax(folder):
            return
        raise PipelineError(
            f"{folder}: expected config.json, a tokenizer and safetensors (as on Hugging Face), or a tokenizer*.model "
            "and one folder with a Flax checkpoint (as on Kaggle)"
        )
    if str(files.read_json_object(folder / "config.json").get("model_type", "")).startswith("lfm2"):
        raise PipelineError(f"{folder / 'config.json'}: {settings.LFM2}")
    index = folder / "model.safetensors.index.json"
    shards = set(weight_map(index).values()) if index.is_file() else {"model.safetensors"}
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise PipelineError(
            f"{folder}: {missing[0]} is missing ({len(missing)} of {len(shards)} safetensors files are); fetch the "
            "model again, in this format"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise PipelineError(f"{folder}: no tokenizer.json or tokenizer.model; copy the model's own there")


def weight_map(index: Path) -> dict[str, str]:
    """Which safetensors file each tensor is in, by model.safetensors.index.json.

    Raises:
      PipelineError: it does not say so.
    """
    found = files.read_json_object(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise PipelineError(
            f"{index}: its weight_map, which names the safetensors file of each tensor, is missing, empty or no such "
            "table; fetch the model again"
        )
    return found


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

    folder, found = retries.retried(attempt)
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
            f"model.handle: {handle} is not whole in {_cache('huggingface')}: {missing[0]} is missing, and Hugging "
            "Face cannot be asked for it; fetch the model once with a connection, and without HF_HUB_OFFLINE"
        )


def _verified(snapshot: Path, wanted: tuple[str, ...]) -> dict[str, dict]:
    """Hashes of a snapshot in huggingface_hub's cache, where each file is a link to a blob named by its checksum.

    The client itself compares sizes only. A damaged file is removed, so that it is fetched again.
    """
    found = hashes(snapshot, wanted)
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

    parsed = _parsed(kind, handle)
    if version is not None:
        parsed = parsed.with_version(int(version))
    cached = _kaggle_cached(parsed)
    if _offline():
        if cached is None:
            raise _NotFetched
        folder = cached
    else:
        download = kagglehub.model_download if kind == "model" else kagglehub.dataset_download
        try:
            folder = Path(retries.retried(lambda: download(str(parsed)), give_up_unreachable=cached is not None))
        except Exception as error:
            if cached is None or not retries.unreachable(error):
                raise
            print(f"Kaggle cannot be reached ({retries.reason(error)}): using {cached}", flush=True)
            folder = cached
    # A folder of the cache is named by its version. In notebooks of Kaggle and Colab the client mounts instead.
    return folder, int(folder.name) if folder.name.isdecimal() else parsed.version, hashes(folder)


class _NotFetched(Exception):
    """Offline, and not in the cache."""


def _parsed(kind: str, handle: str):
    """Kaggle's handle object."""
    from kagglehub import handle as handles

    return (handles.parse_model_handle if kind == "model" else handles.parse_dataset_handle)(handle)


def _kaggle_cached(parsed) -> Path | None:
    """The folder of the version asked for, or of the newest, if it was fetched whole before."""
    from kagglehub import cache

    if parsed.is_versioned():
        found = cache.Cache().load_from_cache(parsed)
        return Path(found) if found else None
    around = Path(cache.get_cached_path(parsed.with_version(1))).parent
    for version in sorted((int(path.name) for path in around.glob("*") if path.name.isdecimal()), reverse=True):
        if found := cache.Cache().load_from_cache(parsed.with_version(version)):
            return Path(found)
    return None


def _offline() -> bool:
    """huggingface_hub's own switch, HF_HUB_OFFLINE, taken for Kaggle too."""
    import huggingface_hub

    return huggingface_hub.is_offline_mode()


def _cache(source: str) -> str:
    if source == "huggingface":
        from huggingface_hub import constants

        return constants.HF_HUB_CACHE
    from kagglehub import config

    return config.get_cache_folder()


def _explained(error: BaseException, source: str, kind: str, handle: str, revision: object) -> str | None:
    """One sentence about a failure of a hub and what to do, or None where it is none of a hub's."""
    name, key = NAMES[source], f"{kind}.handle"
    cache, home = _cache(source), {"huggingface": "HF_HOME", "kaggle": "KAGGLEHUB_CACHE"}[source]
    again = "then run the same command again: it goes on from what has been downloaded"
    if full := retries.no_space(error):
        return (
            f"{key}: no space left in {cache} for {handle} ({full.strerror}): free some, or set {home} to a folder on "
            f"a larger disk, {again}"
        )
    if isinstance(error, _NotFetched) or retries.is_any(error, "OfflineModeIsEnabled"):
        return (
            f"{key}: {handle} is not whole in {cache}, and HF_HUB_OFFLINE is set: unset it, and fetch the {kind} once "
            "with a connection"
        )
    if retries.is_any(error, "Damaged", "DataCorruptionError"):
        return (
            f"{key}: a file of {handle} arrived damaged {retries.ATTEMPTS} times (its checksum is not {name}'s): run "
            "the same command again later, or over another network"
        )
    if surroundings := _explained_by_surroundings(error, source, key):
        return surroundings
    status = retries.status(error)
    explain = _explained_by_huggingface if source == "huggingface" else _explained_by_kaggle
    refused = explain(error, status, kind, handle, revision)
    if refused:
        return refused
    if retries.passing(error):
        return (
            f"{key}: {handle} could not be fetched from {name} in {retries.ATTEMPTS} attempts "
            f"({retries.reason(error)}): check the connection, {again}"
        )
    if status is not None or retries.is_any(error, "RequestException", "HTTPError", "LocalEntryNotFoundError"):
        return f"{key}: {handle} could not be fetched from {name} ({retries.reason(error)})"
    return None


def _explained_by_surroundings(error: BaseException, source: str, key: str) -> str | None:
    """What the client could not even ask with: credentials, proxy, certificates. Texts of errors may show a token."""
    name, text = NAMES[source], str(error).lower()
    if retries.is_any(error, "UnicodeError") or "header value" in text:
        return (
            f"{key}: the token or key for {name} holds what none has, such as a line break or an accent: copy it again "
            f"({CREDENTIALS[source]})"
        )
    if retries.is_any(error, "PermissionError", "IsADirectoryError") and not _is_below(error.filename, _cache(source)):
        return (
            f"{key}: {error.filename}, which {name}'s client asks for credentials, cannot be read ({error.strerror}): "
            f"make it readable for you, or move it away ({CREDENTIALS[source]})"
        )
    if retries.is_any(error, "InvalidURL") or "proxy url" in text:
        return f"{key}: {name}'s client cannot make sense of HTTPS_PROXY: expected http://HOST:PORT, or nothing"
    # requests says what it misses; ssl (for httpx) names no file. (The client's own errors are subclasses.)
    if "certificate bundle" in text or (type(error) is FileNotFoundError and error.filename is None):
        return f"{key}: SSL_CERT_FILE or REQUESTS_CA_BUNDLE names no file of certificates: mend or unset it"
    return None


def _is_below(path: object, folder: str) -> bool:
    return path is not None and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _explained_by_huggingface(
    error: BaseException, status: int | None, kind: str, handle: str, revision: object
) -> str | None:
    import huggingface_hub

    key = f"{kind}.handle"
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{handle}"
    known = huggingface_hub.get_token() is not None
    if retries.is_any(error, "HFValidationError"):
        return f"{key}: {handle!r} is no name of a repository; expected OWNER/NAME, as in google/gemma-2-2b-it"
    if retries.is_any(error, "RevisionNotFoundError"):
        return f"{kind}.revision: {handle} has no revision {revision!r}: see {page}/commits/main, or write null"
    if retries.is_any(error, "GatedRepoError"):
        account = " with the account of your token" if known else f", create a token at {TOKENS}, set HF_TOKEN to it"
        return f"{key}: {handle} is gated: accept its licence at {page}{account}, then run the same command again"
    if retries.is_any(error, "RepositoryNotFoundError"):
        private = "if it is private, your token may not read it" if known else "if it is private or gated, set HF_TOKEN"
        return f"{key}: there is no {kind} {handle} at {page}, or not for you: check the name; {private} ({TOKENS})"
    if status in (401, 403):
        return f"{key}: Hugging Face refuses this token for {handle}: create another at {TOKENS} and set HF_TOKEN to it"
    if status == 404:
        return f"{key}: {handle} lacks a file that it lists: try again, or pin another {kind}.revision ({page})"
    return None


def _explained_by_kaggle(
    error: BaseException, status: int | None, kind: str, handle: str, revision: object
) -> str | None:
    from kagglehub import config

    key = f"{kind}.handle"
    page = f"https://www.kaggle.com/{kind}s/{'/'.join(handle.split('/')[:2])}"
    credentials = CREDENTIALS["kaggle"]
    if status in (401, 403) and config.get_kaggle_credentials() is None:
        return f"{key}: Kaggle gives {handle} to no one unknown: accept its licence at {page}, {credentials}"
    if status == 401:
        return f"{key}: Kaggle does not know these credentials: {credentials}"
    if status == 403:
        return f"{key}: Kaggle refuses {handle} to this account: accept its licence at {page}, then try again"
    if status == 404:
        version = "" if revision is None else f" in version {revision}"
        return f"{key}: Kaggle has no {handle}{version}: check {key} and {kind}.revision against {page}"
    if isinstance(error, ValueError) and "redentials file" in str(error):
        return f"{key}: {error}: {credentials}"
    if isinstance(error, ValueError) and f"Invalid {kind} handle" in str(error):
        expected = "OWNER/MODEL/FRAMEWORK/VARIATION" if kind == "model" else "OWNER/NAME"
        return f"{key}: {handle!r} is no name of Kaggle's; expected {expected}"
    return None
