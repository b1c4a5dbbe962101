"""What an evaluation has done so far, batch by batch: a killed one goes on from there."""

import json
import os
from pathlib import Path

from gsm8k_grpo.common import files


class BatchLog:
    """A file beside the artifacts-to-be, named after all that the rows depend on; gone when they are there."""

    def __init__(self, folder: Path, fingerprint: str):
        """
        Args:
          folder: where the artifacts will be written.
          fingerprint: of all that the rows depend on; batches are taken over only from an evaluation of the same.
        """
        self._folder = folder
        self._path = folder / f"unfinished-{fingerprint[:16]}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.batches: list[dict] = []
        self.starts = 1  # processes that have worked on it, this one among them
        for row in files.read_jsonl_prefix(self._path):
            if "starts" in row:
                self.starts += row["starts"]
            else:
                self.batches.append(row)
        files.write_jsonl(self._path, [{"starts": self.starts}, *self.batches])
        self._handle = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `finish`)

    def append(self, rows: list[dict], seconds: float) -> None:
        """One more batch."""
        batch = {"rows": rows, "seconds": seconds}
        self._handle.write(json.dumps(batch) + "\n")
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self.batches.append(batch)

    def finish(self) -> None:
        """Deletes what no one needs any more, once the artifacts are written."""
        self._handle.close()
        for path in self._folder.glob("unfinished-*.jsonl"):
            path.unlink()
