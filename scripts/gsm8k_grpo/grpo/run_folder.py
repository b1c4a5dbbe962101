"""The folder of one training run: its rows, its checkpoints with their hashes, and the step to resume from.

    runs/FINGERPRINT/
      inputs.json            what the fingerprint is a hash of
      metrics.jsonl          a row for each step (all rows here carry their own hash: sealed_rows.py)
      samples.jsonl          the completions that are kept
      starts.json            for each process that trained the run: the step after which it began
      memory.json            the most memory that a process which ended well used (process_memory.memory_used)
      checkpoints/actor/N/   as Tunix writes them; N counts updates, μ in each step
      checkpoints.json       the hash of each checkpoint, written after it: a folder that is not listed is incomplete
      set-aside/             damaged and incomplete checkpoints, and the log and the hashes from before
      lock                   the process that trains (folder_lock.only_process)

A step's row is on the disk before its checkpoint is listed. So each checkpoint has the rows of all steps before it.
Inputs, starts, memory and samples only say what happened: where they are damaged, the run says so and goes on.
This module does not import JAX.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gsm8k_grpo.common import files, sealed_rows
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
        return cls(training_folder / "runs" / _fingerprint(inputs), updates_per_step)

    def create(self, inputs: Mapping) -> None:
        """Writes inputs.json, and prints how the inputs differ from the latest run's if this run is new."""
        others = sorted(self.folder.parent.glob("*/inputs.json"), key=lambda path: path.stat().st_mtime)
        if others and not (self._inputs_file.exists() or self._hashes_file.exists()):
            before = _read_inputs(others[-1])
            changes = "; ".join(describe_differences(before, inputs)) if before else "with unknown differences"
            print(f"starting another run than {others[-1].parent.name}, which stays as it is: {changes}", flush=True)
        elif self._inputs_file.exists():
            _read_inputs(self._inputs_file)
        files.write_json(self._inputs_file, inputs)
        self._inputs = inputs
        print(f"run {self.folder.name}", flush=True)

    def inputs(self) -> dict:
        """What `create` got: a file that is damaged since then does not matter."""
        return self._inputs

    def starts(self) -> list[int]:
        """For each process that trained this run, the step after which it began."""
        return self._note(self._starts_file, "the starts so far are forgotten").get("starts", [])

    def add_start(self, step: int) -> None:
        """Records that another process begins after a step."""
        sealed_rows.write(self._starts_file, [{"starts": [*self.starts(), step]}])

    def memory(self) -> dict[str, int | None]:
        """The largest of each value that `add_memory` got; empty before."""
        return self._note(self._memory_file, "the memory used so far is forgotten")

    def _note(self, path: Path, consequence: str) -> dict:
        """The one row of a file; empty, and said so, where it is damaged."""
        rows, damaged = sealed_rows.read(path)
        if path.exists() and not rows:
            damaged = [1]
        sealed_rows.name_damage(path, damaged, consequence)
        return rows[0] if rows else {}

    def add_memory(self, used: Mapping[str, int | None]) -> None:
        """Records the bytes that a process has used (None: unknown)."""
        known, before = {key: value for key, value in used.items() if value is not None}, self.memory()
        largest = {key: max(value, before.get(key) or 0) for key, value in known.items()}
        sealed_rows.write(self._memory_file, [{**dict.fromkeys(used), **before, **largest}])

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
        rows, damaged = sealed_rows.read(self._hashes_file)
        if damaged or len(rows) != 1:
            raise PipelineError(
                f"{self._hashes_file}: expected the hash of each checkpoint, as training wrote it; restore it from a "
                f"copy, or move {self.folder} away to train from the start"
            )
        return {int(step): digest for step, digest in rows[0]["checkpoints"].items()}

    def commit_checkpoint(self, step: int) -> None:
        """Lists a checkpoint with its hash, which makes it complete."""
        self._write_hashes({**self.checkpoint_hashes(), step: files.sha256_tree(self.checkpoint(step))})

    def _write_hashes(self, hashes: Mapping[int, str]) -> None:
        listed = {str(step): hashes[step] for step in sorted(hashes)}
        sealed_rows.write(self._hashes_file, [{"checkpoints": listed}])

    def resume(self, kept_steps: list[int]) -> int:
        """Prepares the folder for training to go on.

        The newest intact checkpoint counts that has all of `kept_steps` before it. Every later checkpoint is set aside
        and printed: damaged ones (by their hash), incomplete ones, and those after a damaged one. Then the log is cut
        to that step. If no checkpoint of `kept_steps` is missing, nothing changes.

        A checkpoint that is whole, but whose rows are lost, is set aside too: log and hashes are kept beside it, and
        what is printed says how to get it back.

        Args:
          kept_steps: the steps whose checkpoints a finished run has.

        Returns:
          the step to go on after; 0 without any checkpoint.
        """
        hashes, rows = self.checkpoint_hashes(), self._complete_rows()
        intact, without_rows = [], []
        for step, digest in hashes.items():
            folder = self.checkpoint(step)
            if not folder.is_dir() or files.sha256_tree(folder) != digest:
                print(f"{folder}: is damaged (its hash differs from the one when it was written)", flush=True)
            elif step > len(rows):
                without_rows.append(step)
            else:
                intact.append(step)
        missing = [step for step in kept_steps if step not in intact]
        if not missing:
            return kept_steps[-1]
        start = max((step for step in intact if step < missing[0]), default=0)
        usable = [step for step in intact if step <= start]
        if without_rows:
            self._explain_lost_rows(without_rows, len(rows))
        for folder in sorted((self.checkpoints / "actor").glob("*")):
            if folder not in map(self.checkpoint, usable):
                self._set_aside(folder, is_listed=folder in map(self.checkpoint, hashes))
        self._write_hashes({step: hashes[step] for step in usable})
        sealed_rows.write(self.metrics_file, rows[:start])
        sealed_rows.write(self.samples_file, [row for row in self.samples() if row["step"] <= start])
        return start

    def _explain_lost_rows(self, steps: list[int], rows: int) -> None:
        """Keeps log and hashes as they are, and prints how to get back whole checkpoints whose rows are lost."""
        aside = self.folder / "set-aside"
        aside.mkdir(exist_ok=True)
        for path in (self.metrics_file, self.samples_file, self._hashes_file):
            if path.exists():
                shutil.copy2(path, aside / path.name)
        folders = ", ".join(self.checkpoint(step).name for step in steps)
        print(
            f"{self.metrics_file}: has no whole row for each step up to {steps[-1]}, only up to {rows}. So the whole "
            f"checkpoints of the steps {', '.join(map(str, steps))} are set aside, and training makes them again, to "
            f"the same bits. To get them back instead: stop training; restore {self.metrics_file.name} and "
            f"{self.samples_file.name} from a copy ({aside} has them as they were found); move the folders {folders} "
            f"from {aside} to {self.checkpoints / 'actor'} and {aside / self._hashes_file.name} to {self.folder}; run "
            "the same command again",
            flush=True,
        )

    def _set_aside(self, folder: Path, is_listed: bool) -> None:
        target = self.folder / "set-aside" / folder.name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        print(f"{folder}: set aside as {target}", flush=True)
        if not is_listed:
            print(
                f"{self._hashes_file} does not list it, so writing it did not end; if that file was lost, restore it "
                "and move the folder back",
                flush=True,
            )

    def _complete_rows(self) -> list[dict]:
        """The rows of the steps 1, 2, …, up to the first one that is damaged, missing or out of order."""
        rows, damaged = sealed_rows.read(self.metrics_file)
        sealed_rows.name_damage(self.metrics_file, damaged, "the rows before it count")
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
        rows, damaged = sealed_rows.read(self.samples_file)
        sealed_rows.name_damage(
            self.samples_file, damaged, "these completions are left out, and nothing else depends on them"
        )
        return rows

    def prune(self, kept_steps: list[int], newest: int) -> None:
        """Deletes checkpoints before the newest that are not kept: a signal or the session's end left them."""
        hashes = self.checkpoint_hashes()
        extra = [step for step in hashes if step < newest and step not in kept_steps]
        if extra:
            self._write_hashes({step: digest for step, digest in hashes.items() if step not in extra})
        for step in extra:
            shutil.rmtree(self.checkpoint(step))
            print(f"step {step}: its checkpoint is deleted, because no setting keeps it", flush=True)


def _fingerprint(inputs: Mapping) -> str:
    return files.sha256_text(files.canonical_json(inputs))[:16]


def _read_inputs(path: Path) -> dict | None:
    """The inputs of a run, whose folder is named after their hash; None, and said so, where they are damaged."""
    try:
        found = files.read_json_object(path)
    except PipelineError:
        found = None
    if found is None or _fingerprint(found) != path.parent.name:
        print(
            f"{path}: is damaged (its hash is not the folder's name); only a list of differences needs it", flush=True
        )
        return None
    return found


class StepLog:
    """Appends rows and kept completions to a run's log."""

    def __init__(self, run: Run):
        self._metrics = open(run.metrics_file, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self._samples = open(run.samples_file, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, row: dict, samples: Iterable[dict]) -> None:
        """Appends one step's row, and completions to keep."""
        for handle, lines in ((self._samples, samples), (self._metrics, [row])):
            with files.naming(handle.name):
                handle.writelines(map(sealed_rows.seal, lines))
                handle.flush()

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        for handle in (self._samples, self._metrics):
            os.fsync(handle.fileno())

    def close(self) -> None:
        """Closes the files."""
        self._metrics.close()
        self._samples.close()
