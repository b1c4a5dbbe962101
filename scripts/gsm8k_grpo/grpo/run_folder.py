"""The folder of one training run: its rows, its checkpoints with their hashes, and the step to resume from.

    runs/FINGERPRINT/
      inputs.json            what the fingerprint is a hash of
      metrics.jsonl          a row for each step
      samples.jsonl          the completions that are kept
      starts.json            for each process that trained the run: the step after which it began
      memory.json            the most memory that a process which ended well used (process_memory.memory_used)
      checkpoints/actor/N/   as Tunix writes them; N counts updates, μ in each step
      checkpoints.json       the hash of each checkpoint, written after it: a folder that is not listed is incomplete
      set-aside/             damaged and incomplete checkpoints

A step's row is on the disk before its checkpoint is listed. So each checkpoint has the rows of all steps before it.
This module does not import JAX.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.differences import describe_differences
from gsm8k_grpo.common.errors import PipelineError


class Run:
    """One run's folder."""

    def __init__(self, folder: Path, updates_per_step: int):
        self.folder, self._updates_per_step = folder, updates_per_step
        self.metrics_file, self.samples_file = folder / "metrics.jsonl", folder / "samples.jsonl"
        self.checkpoints = folder / "checkpoints"
        self._inputs_file = folder / "inputs.json"
        self._starts_file, self._memory_file = folder / "starts.json", folder / "memory.json"
        self._hashes_file = folder / "checkpoints.json"

    @classmethod
    def of_inputs(cls, training_folder: Path, inputs: Mapping, updates_per_step: int) -> "Run":
        """The run that has these inputs."""
        fingerprint = files.sha256_text(files.canonical_json(inputs))[:16]
        return cls(training_folder / "runs" / fingerprint, updates_per_step)

    def create(self, inputs: Mapping) -> None:
        """Writes inputs.json, and prints how the inputs differ from the latest run's if this run is new."""
        others = sorted(self.folder.parent.glob("*/inputs.json"), key=lambda path: path.stat().st_mtime)
        if others and not self.folder.exists():
            changes = "; ".join(describe_differences(files.read_json(others[-1]), inputs))
            print(f"starting another run than {others[-1].parent.name}, which stays as it is: {changes}", flush=True)
        files.write_json(self._inputs_file, inputs)
        print(f"run {self.folder.name}", flush=True)

    def inputs(self) -> dict:
        """What `create` wrote."""
        return files.read_json(self._inputs_file)

    def starts(self) -> list[int]:
        """For each process that trained this run, the step after which it began."""
        return files.read_json(self._starts_file) if self._starts_file.exists() else []

    def add_start(self, step: int) -> None:
        """Records that another process begins after a step."""
        files.write_json(self._starts_file, [*self.starts(), step])

    def memory(self) -> dict[str, int | None]:
        """The largest of each value that `add_memory` got; empty before."""
        return files.read_json(self._memory_file) if self._memory_file.exists() else {}

    def add_memory(self, used: Mapping[str, int | None]) -> None:
        """Records the bytes that a process has used (None: unknown)."""
        known, before = {key: value for key, value in used.items() if value is not None}, self.memory()
        largest = {key: max(value, before.get(key) or 0) for key, value in known.items()}
        files.write_json(self._memory_file, {**dict.fromkeys(used), **before, **largest})

    def checkpoint(self, step: int) -> Path:
        """The folder in which Tunix, which counts updates, keeps the checkpoint of a step."""
        return self.checkpoints / "actor" / str(step * self._updates_per_step)

    def checkpoint_hashes(self) -> dict[int, str]:
        """The hash of each complete checkpoint, by step.

        Raises:
          PipelineError: checkpoints.json is not what training wrote.
        """
        if not self._hashes_file.exists():
            return {}
        try:
            return {int(step): digest for step, digest in files.read_json(self._hashes_file).items()}
        except (PipelineError, ValueError, AttributeError):
            raise PipelineError(
                f"{self._hashes_file}: expected the hash of each checkpoint, as training wrote it; restore it from a "
                f"copy, or move {self.folder} away to train from the start"
            ) from None

    def commit_checkpoint(self, step: int) -> None:
        """Lists a checkpoint with its hash, which makes it complete."""
        self._write_hashes({**self.checkpoint_hashes(), step: files.sha256_tree(self.checkpoint(step))})

    def _write_hashes(self, hashes: Mapping[int, str]) -> None:
        files.write_json(self._hashes_file, {str(step): hashes[step] for step in sorted(hashes)})

    def resume(self, kept_steps: list[int]) -> int:
        """Prepares the folder for training to go on.

        The newest intact checkpoint counts that has all of `kept_steps` before it. Every later checkpoint is set aside
        and printed: damaged ones (by their hash), incomplete ones, and those after a damaged one. Then the log is cut
        to that step. If no checkpoint of `kept_steps` is missing, nothing changes.

        Args:
          kept_steps: the steps whose checkpoints a finished run has.

        Returns:
          the step to go on after; 0 without any checkpoint.
        """
        hashes, rows = self.checkpoint_hashes(), self._complete_rows()
        intact = []
        for step, digest in hashes.items():
            folder = self.checkpoint(step)
            if not folder.is_dir() or files.sha256_tree(folder) != digest:
                print(f"{folder}: is damaged (its hash differs from the one when it was written)", flush=True)
            elif step > len(rows):
                print(f"{self.metrics_file}: has no whole row for each step up to {step}", flush=True)
            else:
                intact.append(step)
        missing = [step for step in kept_steps if step not in intact]
        if not missing:
            return kept_steps[-1]
        start = max((step for step in intact if step < missing[0]), default=0)
        usable = [step for step in intact if step <= start]
        for folder in sorted((self.checkpoints / "actor").glob("*")):
            if folder not in map(self.checkpoint, usable):
                self._set_aside(folder)
        self._write_hashes({step: hashes[step] for step in usable})
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
        """The rows of the steps 1, 2, …, up to the first one that is torn or out of order."""
        rows = files.read_jsonl_prefix(self.metrics_file)
        unordered = (index for index, row in enumerate(rows) if row.get("step") != index + 1)
        return rows[: next(unordered, len(rows))]

    def history(self, steps: int) -> list[dict]:
        """The rows of the steps 1 to `steps`.

        Raises:
          PipelineError: a row is missing.
        """
        rows = self._complete_rows()[:steps]
        if len(rows) < steps:
            raise PipelineError(
                f"{self.metrics_file}: expected {steps} whole rows, one for each step, found {len(rows)}; run again "
                "with --forcerun train"
            )
        return rows

    def samples(self) -> list[dict]:
        """The completions kept so far."""
        return files.read_jsonl_prefix(self.samples_file)

    def prune(self, kept_steps: list[int], newest: int) -> None:
        """Deletes checkpoints before the newest that are not kept: a signal or the session's end left them."""
        hashes = self.checkpoint_hashes()
        extra = [step for step in hashes if step < newest and step not in kept_steps]
        if extra:
            self._write_hashes({step: digest for step, digest in hashes.items() if step not in extra})
        for step in extra:
            shutil.rmtree(self.checkpoint(step))


class StepLog:
    """Appends rows and kept completions to a run's log."""

    def __init__(self, run: Run):
        self._metrics = open(run.metrics_file, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self._samples = open(run.samples_file, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, row: dict, samples: Iterable[dict]) -> None:
        """Appends one step's row, and completions to keep."""
        for handle, lines in ((self._samples, samples), (self._metrics, [row])):
            handle.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            handle.flush()

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        for handle in (self._samples, self._metrics):
            os.fsync(handle.fileno())

    def close(self) -> None:
        """Closes the files."""
        self._metrics.close()
        self._samples.close()
