"""GSM8K from TensorFlow Datasets, in the order in which it was published.

This module runs in an environment of its own (envs/tfds.txt), because TensorFlow Datasets needs TensorFlow. It imports
only what that environment has.
"""

import hashlib
import importlib.util
import os
from importlib import metadata
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import gsm8k, retries
from gsm8k_grpo.internals import tfds_internals

CONNECT_SECONDS, READ_SECONDS = 10, 60


def prepare_rows() -> tuple[dict[str, list[dict]], dict]:
    """The published rows by split, and the versions of the data set and of the libraries."""
    if not importlib.util.find_spec("tensorflow"):
        raise PipelineError(
            "dataset.source: tfds needs TensorFlow, which has an environment of its own: run `make setup-tfds`, or "
            "Snakemake with --sdm conda; or set dataset.source to huggingface"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    builder = tfds.builder("gsm8k")
    prepared = Path(builder.data_path)

    def fetch(url: str) -> Path:
        partial = prepared.parent / "partial" / hashlib.sha256(url.encode()).hexdigest()[:16]
        partial.parent.mkdir(parents=True, exist_ok=True)
        retries.retry(lambda: _download(url, partial))
        return partial

    tfds_internals.download_with(fetch)
    try:
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:
        explained = retries.explain(
            error, "dataset.source", "GSM8K", "TensorFlow Datasets' address", str(prepared.parents[1]), "TFDS_DATA_DIR"
        )
        if explained is None and retries.status(error) is not None:
            answer = retries.describe(error)
            explained = f"dataset.source: TensorFlow Datasets' address of GSM8K answers with {answer}: try again later"
        if explained is None:
            raise
        raise PipelineError(f"{explained}; or set dataset.source to huggingface") from None
    rows = {}
    for split in gsm8k.PUBLISHED:
        examples = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
        stored = [{key: example[key].decode() for key in gsm8k.KEYS} for example in examples]
        by_index = dict(zip(tfds_internals.published_indices(split, len(stored)), stored, strict=True))
        rows[split] = [by_index[index] for index in range(len(stored))]
        gsm8k.check_published(rows[split], split, f"{prepared} (remove it to prepare it again)")
    libraries = {name: metadata.version(name) for name in ("tensorflow-datasets", "tensorflow-cpu")}
    return rows, {"gsm8k": str(builder.version), **libraries}


def _download(url: str, partial: Path) -> None:
    """Fetches an address into a file and goes on from what an earlier attempt left there.

    Raises:
      retries.Damaged: a published file with other contents; the file is removed.
    """
    import requests

    size = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={size}-"} if size else {})}
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
        if response.status_code != 416:  # 416: the file is complete
            response.raise_for_status()
            with partial.open("ab" if response.status_code == 206 else "wb") as handle:
                for block in response.iter_content(64 * 1024):
                    handle.write(block)
    _, sha256 = gsm8k.PUBLISHED.get(Path(url).stem, (None, None))
    if sha256 and files.sha256_file(partial) != sha256:
        partial.unlink()
        raise retries.Damaged(url)
