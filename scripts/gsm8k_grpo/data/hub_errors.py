"""Failures of a hub, each as one sentence with the remedy."""

import os
from pathlib import Path

from gsm8k_grpo.data import retries
from gsm8k_grpo.internals import kagglehub_internals

HUB_NAMES = {"huggingface": "Hugging Face", "kaggle": "Kaggle"}
CACHE_VARIABLES = {"huggingface": "HF_HOME", "kaggle": "KAGGLEHUB_CACHE"}
TOKENS = "https://huggingface.co/settings/tokens"
CREDENTIALS = {
    "huggingface": f"create a token at {TOKENS} and set HF_TOKEN to it",
    "kaggle": "create a token at https://www.kaggle.com/settings and set KAGGLE_USERNAME and KAGGLE_KEY, or put its "
    "kaggle.json into ~/.kaggle",
}


def cache_folder(hub: str) -> str:
    """The folder of all that a hub's client has fetched."""
    if hub == "huggingface":
        from huggingface_hub import constants

        return constants.HF_HUB_CACHE
    return kagglehub_internals.cache_root()


def explain(error: BaseException, hub: str, kind: str, handle: str, revision: object) -> str | None:
    """One sentence about a hub's failure and its remedy, or None for any other error."""
    name, key, cache = HUB_NAMES[hub], f"{kind}.handle", cache_folder(hub)
    if retries.is_any(error, "OfflineModeIsEnabled"):
        return (
            f"{key}: {handle} is not complete in {cache}, and HF_HUB_OFFLINE is set: unset it, and fetch the {kind} "
            "once with a connection"
        )
    status = retries.status(error)
    explain_hub = _explain_huggingface if hub == "huggingface" else _explain_kaggle
    explained = (
        _explain_environment(error, hub, key)
        or explain_hub(error, status, kind, handle, revision)
        or retries.explain(error, key, handle, name, cache, CACHE_VARIABLES[hub])
    )
    if explained:
        return explained
    if status is not None or retries.is_any(error, "RequestException", "HTTPError", "LocalEntryNotFoundError"):
        return f"{key}: {handle} could not be fetched from {name} ({retries.describe(error)})"
    return None


def _explain_environment(error: BaseException, hub: str, key: str) -> str | None:
    """Credentials, proxies and certificates that no request can be made with. An error's text may show a token."""
    name, text = HUB_NAMES[hub], str(error).lower()
    if retries.is_any(error, "UnicodeError") or "header value" in text:
        return (
            f"{key}: the token or key for {name} has a character that none has, such as a line break or an accent; "
            f"copy it again ({CREDENTIALS[hub]})"
        )
    unreadable = retries.is_any(error, "PermissionError", "IsADirectoryError") and getattr(error, "filename", None)
    if unreadable and not Path(os.path.abspath(unreadable)).is_relative_to(os.path.abspath(cache_folder(hub))):
        return (
            f"{key}: {error.filename}, where {name}'s client looks for credentials, cannot be read ({error.strerror}): "
            f"make it readable, or move it away ({CREDENTIALS[hub]})"
        )
    if retries.is_any(error, "InvalidURL") or "proxy url" in text:
        return f"{key}: {name}'s client does not understand HTTPS_PROXY: expected http://HOST:PORT, or nothing"
    # requests names what is missing; ssl (for httpx) names no file. (The client's own errors are subclasses.)
    nameless = type(error) in (FileNotFoundError, IsADirectoryError, NotADirectoryError) and error.filename is None
    if "certificate bundle" in text or nameless:
        return f"{key}: SSL_CERT_FILE or REQUESTS_CA_BUNDLE does not name a file of certificates: correct or unset it"
    return None


def _explain_huggingface(
    error: BaseException, status: int | None, kind: str, handle: str, revision: object
) -> str | None:
    import huggingface_hub

    key = f"{kind}.handle"
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{handle}"
    has_token = huggingface_hub.get_token() is not None
    if retries.is_any(error, "HFValidationError"):
        return f"{key}: {handle!r} is not the name of a repository; expected OWNER/NAME, as in google/gemma-2-2b-it"
    if retries.is_any(error, "RevisionNotFoundError"):
        return f"{kind}.revision: {handle} has no revision {revision!r}: see {page}/commits/main, or write null"
    if retries.is_any(error, "GatedRepoError"):
        account = (
            " with the account of your token" if has_token else f", create a token at {TOKENS}, set HF_TOKEN to it"
        )
        return f"{key}: {handle} is gated: accept its licence at {page}{account}, then run the same command again"
    if retries.is_any(error, "RepositoryNotFoundError"):
        private = "if it is private, your token may not read it"
        if not has_token:
            private = "if it is private or gated, set HF_TOKEN"
        return f"{key}: there is no {kind} {handle} at {page}, or it is hidden from you: check it; {private} ({TOKENS})"
    if status in (401, 403):
        return f"{key}: Hugging Face refuses this token for {handle}: create another at {TOKENS} and set HF_TOKEN to it"
    if status == 404:
        pin = ", or pin another model.revision" if kind == "model" else ""
        return f"{key}: {handle} lacks a file that it lists: try again{pin} ({page})"
    return None


def _explain_kaggle(error: BaseException, status: int | None, kind: str, handle: str, revision: object) -> str | None:
    key = f"{kind}.handle"
    page = f"https://www.kaggle.com/{kind}s/{'/'.join(handle.split('/')[:2])}"
    credentials = CREDENTIALS["kaggle"]
    if status in (401, 403) and not kagglehub_internals.has_credentials():
        return f"{key}: Kaggle needs credentials for {handle}: accept its licence at {page}, {credentials}"
    if status == 401:
        return f"{key}: Kaggle does not know these credentials: {credentials}"
    if status == 403:
        return f"{key}: Kaggle refuses {handle} to this account: accept its licence at {page}, then try again"
    if status == 404:
        version = "" if revision is None else f" in version {revision}"
        keys = f"{key} and model.revision" if kind == "model" else key
        return f"{key}: Kaggle has no {handle}{version}: check {keys} against {page}"
    if isinstance(error, ValueError) and "redentials file" in str(error):
        return f"{key}: {error}: {credentials}"
    if isinstance(error, ValueError) and f"Invalid {kind} handle" in str(error):
        expected = "OWNER/MODEL/FRAMEWORK/VARIATION" if kind == "model" else "OWNER/NAME"
        return f"{key}: {handle!r} is not a name on Kaggle; expected {expected}"
    return None
