"""The finished batches of an evaluation, on disk: a killed evaluation resumes after them."""

import json
import os
from pathlib import Path

from gsm8k_grpo.common import files


class BatchLog:
    """A file beside the artifacts, named after a fingerprint; `finish` deletes it.

    Attributes:
      folder, fingerprint: as given.
      batches: `rows` and `seconds` of each finished batch.
      starts: processes that have worked on the evaluation, with this one.
    """

    def __init__(self, folder: Path, fingerprint: str):
        """Reads the batches of earlier processes, if there are any.

        Args:
          folder: where the artifacts will be written.
          fingerprint: of everything that the rows depend on; only batches with the same fingerprint are used.
        """
        self.folder, self.fingerprint = folder, fingerprint
        self._path = folder / f"unfinished-{fingerprint[:16]}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.batches: list[dict] = []
        self.starts = 1
        for row in files.read_jsonl_prefix(self._path):
            if "starts" in row:
                self.starts += row["starts"]
            else:
                self.batches.append(row)
        files.write_jsonl(self._path, [{"starts": self.starts}, *self.batches])
        self._handle = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (`finish` closes it)

    @property
    def seconds(self) -> float:
        """Seconds of all batches."""
        return sum(batch["seconds"] for batch in self.batches)

    def append(self, rows: list[dict], seconds: float) -> None:
        """Adds one batch; it is on the disk when this returns."""
        batch = {"rows": rows, "seconds": seconds}
        self._handle.write(json.dumps(batch) + "\n")
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self.batches.append(batch)

    def finish(self) -> None:
        """Deletes this log and those of other fingerprints. Call it once the artifacts are written."""
        self._handle.close()
        for path in self.folder.glob("unfinished-*.jsonl"):
            path.unlink()
