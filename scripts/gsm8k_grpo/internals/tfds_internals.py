"""Parts of tensorflow_datasets 4.9.10 that are private or that we patch, each with the reason."""

import contextlib
import types
from collections.abc import Callable, Iterator
from pathlib import Path


def published_indices(split: str, size: int) -> list[int]:
    """For each row of a prepared split, in its order, the row's index in the published file.

    TensorFlow Datasets stores rows sorted by a hash of their key (here the line number), salted with the split's name.
    It has no public way back to the published order.
    """
    from tensorflow_datasets.core import hashing

    return sorted(range(size), key=hashing.Hasher(split).hash_key)


def download_with(fetch: Callable[[str], Path]) -> None:
    """Makes TensorFlow Datasets read each address from the file that `fetch` downloads; the file is then removed.

    Its own client starts again from the first byte after a cut connection.
    """
    from tensorflow_datasets.core.download import downloader

    @contextlib.contextmanager
    def open_url(url: str, **_: object) -> Iterator[tuple[object, Iterator[bytes]]]:
        path = fetch(url)
        with path.open("rb") as handle:
            yield types.SimpleNamespace(url=url, headers={}), iter(lambda: handle.read(2**20), b"")
        path.unlink()

    downloader._open_url = open_url
