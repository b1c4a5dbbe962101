"""Parts of huggingface_hub 1.33.0 that are private or that we patch, each with the reason."""

import logging
import re
from pathlib import Path

from huggingface_hub import constants, file_download


def disable_xet() -> None:
    """Makes the client use plain HTTP and Git LFS in place of Xet, another protocol with a client of its own in Rust.

    Xet's downloads do not resume, and tests cannot play its hub.
    """
    constants.HF_HUB_DISABLE_XET = True


def resume_downloads() -> None:
    """Makes the client keep what a failed or killed download has, and go on from there.

    The client itself resumes within one call only: it downloads to a temporary file of its own and deletes that file on
    failure, so that processes without working locks cannot write to the same file (huggingface_hub, pull request 4228).
    We keep one partial file for each blob and compare checksums afterwards.
    """
    disable_xet()
    file_download._download_to_tmp_and_move = _download_resuming


def _download_resuming(
    incomplete_path: Path,
    destination_path: Path,
    url_to_download: str,
    headers: dict,
    expected_size: int | None,
    tqdm_class: type | None = None,
    **_: object,
) -> None:
    """In the place of `_download_to_tmp_and_move`."""
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
            _nb_retries=0,  # `retries.retry` tries again when nothing arrives
        )
    file_download._chmod_and_move(incomplete_path, destination_path)


def hide_signatures() -> None:
    """Removes queries from the addresses that the client logs when it tries again: they may hold a signature."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_without_queries)


def _without_queries(record: logging.LogRecord) -> bool:
    record.msg, record.args = re.sub(r"\?\S+", "", record.getMessage()), ()
    return True
