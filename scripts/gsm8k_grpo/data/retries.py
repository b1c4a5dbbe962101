"""Which failures of a download are worth another attempt, for the errors of requests, httpx and the hubs' clients."""

import errno
from collections.abc import Callable, Iterator

import tenacity

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.5  # between attempts; each later pause is twice as long
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Damaged(Exception):
    """A file whose contents do not have the checksum that the hub names."""


def retry(call: Callable, give_up_unreachable: bool = False) -> object:
    """Calls until it works, at most `ATTEMPTS` times, with pauses, and returns the result.

    Args:
      call: downloads; the next attempt goes on from what an attempt has got.
      give_up_unreachable: make no other attempt when the hub cannot be reached.
    """

    def is_promising(error: BaseException) -> bool:
        return is_transient(error) and not (give_up_unreachable and is_unreachable(error))

    def announce(state: tenacity.RetryCallState) -> None:
        why = describe(state.outcome.exception())
        print(f"attempt {state.attempt_number} of {ATTEMPTS} failed ({why}); trying again", flush=True)

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=FIRST_PAUSE_SECONDS),
        retry=tenacity.retry_if_exception(is_promising),
        before_sleep=announce,
        reraise=True,
    )(call)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the chain of its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def status(error: BaseException) -> int | None:
    """The HTTP status that a client's error is about."""
    for link in causes(error):
        response = getattr(link, "response", None)
        if response is not None:
            return response.status_code
    return None


def is_any(error: BaseException, *names: str) -> bool:
    """Whether an error, one of its base classes, or a cause has one of these class names."""
    return any(kind.__name__ in names for link in causes(error) for kind in type(link).__mro__)


def no_space(error: BaseException) -> OSError | None:
    """The operating system's error about a full disk among the causes of an error."""
    return next((link for link in causes(error) if getattr(link, "errno", None) in NO_SPACE), None)


def was_cut_short(error: BaseException) -> bool:
    """Whether an answer ended early. requests and httpx have classes for it; huggingface_hub has a text."""
    return is_any(error, "ChunkedEncodingError", "RemoteProtocolError") or any(
        type(link) is OSError and "Consistency check failed" in str(link) for link in causes(error)
    )


def is_unreachable(error: BaseException) -> bool:
    """Whether nothing answered: no network, no such host, or no server there."""
    return (
        status(error) is None
        and is_any(error, "ConnectionError", "Timeout", "TransportError")
        and not was_cut_short(error)
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    if is_any(error, "Damaged", "DataCorruptionError"):
        return True
    if no_space(error) or is_any(error, "OfflineModeIsEnabled"):
        return False
    code = status(error)
    return is_unreachable(error) or was_cut_short(error) or (code is not None and (code in (408, 429) or code >= 500))


def describe(error: BaseException) -> str:
    """Why an attempt failed. Addresses are left out: they may hold a signature."""
    code = status(error)
    if code is not None:
        return f"status {code}"
    if was_cut_short(error):
        return "the connection was cut"
    if is_any(error, "Damaged", "DataCorruptionError"):
        return "a wrong checksum"
    return "no connection" if is_unreachable(error) else type(error).__name__


def explain(error: BaseException, key: str, what: str, source: str, folder: str, folder_variable: str) -> str | None:
    """One sentence about a failed download and its remedy, or None for another error.

    `key` is the setting that asked for `what` from `source`; the environment variable `folder_variable` moves `folder`,
    where downloads are kept.
    """
    again = "then run the same command again: it goes on from what has been downloaded"
    if full := no_space(error):
        return (
            f"{key}: no space left in {folder} for {what} ({full.strerror}): free some, or set {folder_variable} to a "
            f"folder on a larger disk, {again}"
        )
    if is_any(error, "Damaged", "DataCorruptionError"):
        return (
            f"{key}: a file of {what} arrived damaged {ATTEMPTS} times (another checksum than at {source}): run the "
            "same command again later, or over another network"
        )
    if is_transient(error):
        return (
            f"{key}: {what} could not be fetched from {source} in {ATTEMPTS} attempts ({describe(error)}): check the "
            f"connection, {again}"
        )
    return None
