"""The finished rows of an evaluation, on disk: a killed evaluation goes on with the others."""

import os
from pathlib import Path

from gsm8k_grpo.common import files, sealed_rows


class RowLog:
    """A file beside the artifacts, named after a fingerprint; `finish` deletes it.

    Attributes:
      folder, fingerprint: as given.
      rows: the finished rows, in the order in which they ended.
      seconds: that they took.
      starts: processes that have worked on the evaluation, with this one.
    """

    def __init__(self, folder: Path, fingerprint: str):
        """Reads the rows of earlier processes, if there are any.

        Args:
          folder: where the artifacts will be written.
          fingerprint: of everything that the rows depend on; only rows with the same fingerprint are used.
        """
        self.folder, self.fingerprint = folder, fingerprint
        self._path = folder / f"unfinished-{fingerprint[:16]}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict] = []
        self.seconds, self.starts = 0.0, 1
        groups = []
        lines, damaged = sealed_rows.read(self._path)
        sealed_rows.name_damage(self._path, damaged, "its rows are completed and graded again")
        for line in lines:
            if "starts" in line:
                self.starts += line["starts"]
            else:
                groups.append(line)
                self.rows += line["rows"]
                self.seconds += line["seconds"]
        sealed_rows.write(self._path, [{"starts": self.starts}, *groups])
        self._handle = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (`finish` closes it)

    def append(self, rows: list[dict], seconds: float) -> None:
        """Adds rows that ended together; they are on the disk when this returns."""
        with files.naming(self._path):
            self._handle.write(sealed_rows.seal({"rows": rows, "seconds": seconds}))
            self._handle.flush()
            os.fsync(self._handle.fileno())
        self.rows += rows
        self.seconds += seconds

    def finish(self) -> None:
        """Deletes this log and those of other fingerprints. Call it once the artifacts are written."""
        self._handle.close()
        for path in self.folder.glob("unfinished-*.jsonl"):
            path.unlink()
