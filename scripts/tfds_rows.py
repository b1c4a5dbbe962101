"""Stage `tfds_rows`: GSM8K from TensorFlow Datasets, in the order in which it was published.

  .venv-tfds/bin/python scripts/tfds_rows.py --output results/data/gsm8k/tfds

TensorFlow Datasets needs TensorFlow to prepare a data set, so this stage has an environment of its own: envs/tfds.txt,
which `make setup-tfds` installs into .venv-tfds. Writes train.jsonl and test.jsonl (`question`, `answer`, as published)
and origin.json (versions). What TensorFlow Datasets downloads and prepares stays in its own folder (TFDS_DATA_DIR, or
~/tensorflow_datasets) and is used from there without a network.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import os
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.data import gsm8k, retries

TIMEOUTS_SECONDS = (10, 60)  # to connect, between bytes


def published_order(split: str, size: int) -> list[int]:
    """For each row in the order of TensorFlow Datasets, its index in the published file.

    TensorFlow Datasets sorts rows by a hash of their key, here the number of their line, salted with the split's name.
    """
    from tensorflow_datasets.core import hashing

    return sorted(range(size), key=hashing.Hasher(split).hash_key)


def restored(rows: list[dict], split: str) -> list[dict]:
    """Rows in the order of TensorFlow Datasets, back in the published one."""
    by_index = dict(zip(published_order(split, len(rows)), rows, strict=True))
    return [by_index[index] for index in range(len(rows))]


def download(url: str, partial: Path) -> None:
    """Fetches an address into a file, going on from what an earlier attempt left there.

    Raises:
      retries.Damaged: a published file with other contents; it is removed.
    """
    import requests

    size = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={size}-"} if size else {})}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS_SECONDS) as response:
        if response.status_code != 416:  # else it is all there already
            response.raise_for_status()
            with partial.open("ab" if response.status_code == 206 else "wb") as handle:
                for block in response.iter_content(64 * 1024):
                    handle.write(block)
    _, sha256 = gsm8k.PUBLISHED.get(Path(url).stem, (None, None))
    if sha256 and files.sha256_file(partial) != sha256:
        partial.unlink()
        raise retries.Damaged(url)


def resume_downloads(folder: Path) -> None:
    """Makes TensorFlow Datasets download with `download`: its own client starts a cut download over, or gives up."""
    from tensorflow_datasets.core.download import downloader

    @contextlib.contextmanager
    def opened(url: str, **_: object) -> Iterator[tuple[object, Iterator[bytes]]]:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / hashlib.sha256(url.encode()).hexdigest()[:16]
        retries.retry(lambda: download(url, partial))
        with partial.open("rb") as handle:
            yield types.SimpleNamespace(url=url, headers={}), iter(lambda: handle.read(2**20), b"")
        partial.unlink()

    downloader._open_url = opened


def explained(error: Exception, folder: str) -> str | None:
    """One sentence about a failed download and what to do, or None where it is another failure."""
    if full := retries.no_space(error):
        return (
            f"dataset.source: no space left in {folder} ({full.strerror}): free some, or set TFDS_DATA_DIR to a folder "
            "on a larger disk, then run the same command again: it goes on from what has been downloaded"
        )
    if retries.is_any(error, "Damaged"):
        return (
            f"dataset.source: GSM8K arrived damaged {retries.ATTEMPTS} times (its checksum is not the published one): "
            "run the same command again later, or set dataset.source to huggingface"
        )
    if retries.is_transient(error):
        return (
            f"dataset.source: GSM8K could not be fetched for TensorFlow Datasets in {retries.ATTEMPTS} attempts "
            f"({retries.describe(error)}): check the connection, then run the same command again: it goes on from what "
            "has been downloaded"
        )
    if retries.status(error) is not None:
        return (
            f"dataset.source: the address that TensorFlow Datasets has for GSM8K answers with {retries.describe(error)}: "
            "set dataset.source to huggingface"
        )
    return None


def load() -> tuple[dict[str, list[dict]], dict]:
    """The published rows by split, and the versions that gave them."""
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
    resume_downloads(prepared.parent / "partial")
    try:
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:
        sentence = explained(error, str(prepared.parents[1]))
        if sentence is None:
            raise
        raise PipelineError(sentence) from None
    rows = {}
    for split in gsm8k.PUBLISHED:
        examples = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
        rows[split] = restored(
            [{key: example[key].decode() for key in ("question", "answer")} for example in examples], split
        )
        gsm8k.check_published(rows[split], split, f"{prepared} (remove it to prepare it again)")
    libraries = {name: metadata.version(name) for name in ("tensorflow-datasets", "tensorflow-cpu")}
    return rows, {"gsm8k": str(builder.version), **libraries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    rows, origin = load()
    for split, split_rows in rows.items():
        files.write_text(arguments.output / f"{split}.jsonl", gsm8k.published_text(split_rows))
        print(f"{split}: {len(split_rows)} rows")
    files.write_json(arguments.output / "origin.json", {"versions": origin})


if __name__ == "__main__":
    run_stage(main)
