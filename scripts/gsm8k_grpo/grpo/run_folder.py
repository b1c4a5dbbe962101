"""The folder of one training run: the log of its steps, its checkpoints with their hashes, and where to go on from.

    runs/FINGERPRINT/
      inputs.json            what makes the fingerprint
      metrics.jsonl          a line for each step
      samples.jsonl          completions kept to be read
      starts.json            the step after which each process that trained it began
      memory.json            the most that any process which ended as it should has used (memory.used)
      checkpoints/actor/N/   as Tunix writes them; N counts updates, μ a step
      checkpoints.json       each checkpoint's hash; written after it: what is not listed here is no checkpoint
      set-aside/             what was found damaged, or half written

A step's line is on the disk before its checkpoint is listed; so a checkpoint never stands without the steps before it.
No JAX here.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError


class Run:
    """One run's folder."""

    def __init__(self, folder: Path, updates_per_step: int):
        self.folder, self._updates = folder, updates_per_step
        self.metrics_file, self.samples_file = folder / "metrics.jsonl", folder / "samples.jsonl"
        self.checkpoints = folder / "checkpoints"
        self._starts_file, self._memory_file = folder / "starts.json", folder / "memory.json"
        self._ledger_file = folder / "checkpoints.json"

    def starts(self) -> list[int]:
        """The step after which each process that trained this run began: more than one were restarts."""
        return files.read_json(self._starts_file) if self._starts_file.exists() else []

    def note_start(self, step: int) -> None:
        """One more process begins, after a step."""
        files.write_json(self._starts_file, [*self.starts(), step])

    def memory(self) -> dict[str, int | None]:
        """What `note_memory` was told, the largest of each; nothing before."""
        return files.read_json(self._memory_file) if self._memory_file.exists() else {}

    def note_memory(self, used: Mapping[str, int | None]) -> None:
        """A process ends, and has used so much (None: not known)."""
        known, before = {key: value for key, value in used.items() if value is not None}, self.memory()
        largest = {key: max(value, before.get(key) or 0) for key, value in known.items()}
        files.write_json(self._memory_file, {**dict.fromkeys(used), **before, **largest})

    def checkpoint(self, step: int) -> Path:
        """Where Tunix keeps the checkpoint of a step: it counts updates."""
        return self.checkpoints / "actor" / str(step * self._updates)

    def ledger(self) -> dict[int, str]:
        """The hash of each checkpoint that was written whole, by step."""
        if not self._ledger_file.exists():
            return {}
        try:
            return {int(step): digest for step, digest in files.read_json(self._ledger_file).items()}
        except (PipelineError, ValueError, AttributeError):
            raise PipelineError(
                f"{self._ledger_file}: is not what training wrote (the hash of each checkpoint); put it back from a "
                f"copy, or move {self.folder} away to train from the start"
            ) from None

    def commit(self, step: int) -> None:
        """Lists a checkpoint with its hash: from here on it is one."""
        listed = {**self.ledger(), step: files.sha256_tree(self.checkpoint(step))}
        self._write_ledger(listed)

    def _write_ledger(self, listed: Mapping[int, str]) -> None:
        files.write_json(self._ledger_file, {str(step): listed[step] for step in sorted(listed)})

    def resume(self, promised: list[int]) -> int:
        """The step to go on after: the newest intact checkpoint with all that were promised before it; 0 is none.

        Whatever lies beyond it is set aside and named: what is damaged (by its hash), what a kill left half written,
        and what a damaged checkpoint before it makes necessary to be made again. Then the log is cut to that step.

        Args:
          promised: the steps whose checkpoints must be there at the end.
        """
        listed, rows = self.ledger(), self._complete_rows()
        intact, damaged = [], []
        for step, digest in listed.items():
            folder = self.checkpoint(step)
            whole = folder.is_dir() and files.sha256_tree(folder) == digest
            (intact if whole and step <= len(rows) else damaged).append(step)
            if not whole:
                print(f"{folder}: is damaged (its hash is another than when it was written)", flush=True)
            elif step > len(rows):
                print(f"{self.metrics_file}: has no whole line for each step up to {step}", flush=True)
        missing = [step for step in promised if step not in intact]
        if not missing:
            return promised[-1]
        start = max((step for step in intact if step < missing[0]), default=0)
        kept = {self.checkpoint(step) for step in intact if step <= start}
        for folder in sorted((self.checkpoints / "actor").glob("*")):
            if folder not in kept:
                self._set_aside(folder)
        self._write_ledger({step: listed[step] for step in intact if step <= start})
        files.write_jsonl(self.metrics_file, rows[:start])
        files.write_jsonl(self.samples_file, [row for row in self.samples() if row["step"] <= start])
        return start

    def _set_aside(self, folder: Path) -> None:
        target = self.folder / "set-aside" / folder.name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        print(f"{folder}: set aside as {target}", flush=True)

    def _complete_rows(self) -> list[dict]:
        """The steps 1, 2, … of the log, up to the first line that is torn or out of order."""
        rows: list[dict] = []
        for row in _parsed(self.metrics_file):
            if row.get("step") != len(rows) + 1:
                break
            rows.append(row)
        return rows

    def history(self, steps: int) -> list[dict]:
        """The rows of the steps 1 to `steps`.

        Raises:
          PipelineError: they are not all there.
        """
        rows = self._complete_rows()[:steps]
        if len(rows) < steps:
            raise PipelineError(
                f"{self.metrics_file}: has {len(rows)} whole lines, {steps} steps were made; run --forcerun train"
            )
        return rows

    def samples(self) -> list[dict]:
        """The completions kept so far."""
        return list(_parsed(self.samples_file))

    def prune(self, promised: list[int]) -> None:
        """Deletes the checkpoints that only a stop between two intervals had left."""
        listed = self.ledger()
        extra = [step for step in listed if step < promised[-1] and step not in promised]
        if extra:
            self._write_ledger({step: digest for step, digest in listed.items() if step not in extra})
        for step in extra:
            shutil.rmtree(self.checkpoint(step))


class StepLog:
    """Appends a run's steps to its log."""

    def __init__(self, run: Run):
        self._metrics = open(run.metrics_file, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self._samples = open(run.samples_file, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, row: dict, samples: Iterable[dict]) -> None:
        """One step's figures, and completions to keep."""
        for handle, lines in ((self._samples, samples), (self._metrics, [row])):
            handle.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            handle.flush()

    def sync(self) -> None:
        """Brings all that was appended to the disk."""
        for handle in (self._samples, self._metrics):
            os.fsync(handle.fileno())

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()


def _parsed(path: Path) -> Iterable[dict]:
    """The rows of a log, up to a line that a kill cut short."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            return
        if not isinstance(row, dict):
            return
        yield row
