"""One file of a GitHub repository at a pinned commit, with a pinned checksum."""

import hashlib
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import retries

HOST = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 60


def fetch(repository: str, commit: str, path: str, checksum: str, target: Path, remedy: str) -> None:
    """Downloads a file.

    Args:
      repository: OWNER/NAME.
      commit: 40 digits.
      path: of the file in the repository.
      checksum: SHA-256 (64 digits), or git's own hash of a file (40).
      target: where to write it.
      remedy: ends the error's sentence: what to do without this download.

    Raises:
      PipelineError: no connection, no such file, or other contents.
    """
    import huggingface_hub
    import requests

    if huggingface_hub.is_offline_mode():  # HF_HUB_OFFLINE is this pipeline's one switch for all downloads
        raise PipelineError(f"{repository} on GitHub: HF_HUB_OFFLINE is set, so nothing is downloaded; {remedy}")

    def attempt() -> bytes:
        answer = requests.get(f"{HOST}/{repository}/{commit}/{path}", timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        if hash_like(checksum, answer.content) != checksum:
            raise retries.Damaged(path)
        return answer.content

    print(f"fetching {path} of {repository} from GitHub (commit {commit[:12]})", flush=True)
    try:
        content = retries.retry(attempt)
    except (requests.RequestException, retries.Damaged) as error:
        raise PipelineError(
            f"{path} of {repository} could not be fetched from GitHub ({retries.describe(error)}): check the "
            f"connection, or {remedy}"
        ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def hash_like(checksum: str, content: bytes) -> str:
    """The hash of a file's content, of the kind that `checksum` is: SHA-256, or git's own of 40 digits."""
    if len(checksum) == 40:
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return hashlib.sha256(content).hexdigest()
