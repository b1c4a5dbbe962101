"""One process at a time in a folder. The kernel gives the lock back when its process ends, however that ends."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

LOCK_FILE = "lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what file systems without locks answer


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """While entered, no other process is, on any machine that shares the file system. Says for whom it waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_FILE, "a+", encoding="utf-8") as handle:
        try:
            _wait_for_lock(folder, handle)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(
                f"WARNING: {folder}: this file system has no locks ({error.strerror}); make sure that no other process "
                "works in this folder",
                flush=True,
            )
        handle.truncate(0)
        since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, handle)
        handle.flush()
        yield


def _wait_for_lock(folder: Path, handle: TextIO) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{folder}: {_describe_holder(handle)} works in this folder; waiting until it ends", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
        print(f"{folder}: it has ended", flush=True)


def _describe_holder(handle: TextIO) -> str:
    handle.seek(0)
    try:
        holder = json.load(handle)
        return f"process {holder['pid']} on {holder['host']}, which began {holder['since']},"
    except (ValueError, KeyError, TypeError):  # it has the lock, but has not written this yet
        return "another process"
