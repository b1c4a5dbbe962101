"""The record of a finished stage: what its outputs were made from, and their hashes.

    results/records/STAGE-RECIPE….json
      made_from         options (`settings` by key), code, facts, inputs (SHA-256 by path), versions of the libraries
      made              SHA-256 of each output, and of what lies beside it: weights, checkpoints, the files of an export
      made_at_seconds   when, in seconds since 1970

Records travel with the results. Where Snakemake's own notes (.snakemake) and the times of files say nothing or too
little, as in a copy on another machine, a stage still knows whether what is there is just what it would make. A record
has no absolute path and no time of a file, so the folder may lie anywhere.
"""

import argparse
import json
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.differences import describe_differences
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.provenance import library_versions
from gsm8k_grpo.common.stage_command import parse_command

# Stages or outputs that the user wants to be made anew (--forcerun), one a line; `*` is all. Set in rules/common.smk.
FORCED_VARIABLE = "GSM8K_GRPO_FORCED"

# Smaller outputs are compared each time that Snakemake starts, larger ones when they are read.
LARGEST_COMPARED_BYTES = 64 * 2**20

# Stages that run in an environment of their own (TensorFlow's). Snakemake compares records in the main environment,
# whose versions did not make the output; origin.json has those that did.
WITHOUT_VERSIONS = ("tfds_rows",)


class StageRecord:
    """The record of one stage, as it is on the disk, and what the stage would be made from now."""

    def __init__(
        self,
        path: Path,
        command: list[str],
        code: str,
        facts: Iterable[str],
        inputs: Iterable[Path],
        settings_texts: Mapping[str, str] | None = None,
    ):
        """
        Args:
          path: of the record.
          command: the stage's own command line, with options such as `--rows FILE` and `--settings FILE`.
          code: which code it runs.
          facts: JSON texts of what else it depends on.
          inputs: the files that it reads; they are hashed now.
          settings_texts: as in `is_other`.
        """
        self.path, self._stage = path, Path(command[1]).stem if len(command) > 1 else command[0]
        self._made_from = {
            "options": _options(command, settings_texts or {}),
            "code": code,
            "facts": [json.loads(text) for text in facts],
            "inputs": _hashes(inputs),
            "versions": {} if self._stage in WITHOUT_VERSIONS else library_versions(),
        }

    def differences(self, outputs: list[Path]) -> list[str] | None:
        """What keeps `outputs` from being taken over, a phrase for each key; None where there is no record.

        An empty list: they are just what the stage would make.
        """
        try:
            record = files.read_json_object(self.path)
        except PipelineError:
            return None
        if changed := describe_differences(record.get("made_from"), self._made_from):
            return changed
        made = record.get("made") or {}
        missing = [f"{name}: is missing" for name, digest in made.items() if digest and not Path(name).exists()]
        return missing or describe_differences(made, _made(outputs))

    def is_forced(self, outputs: Iterable[Path]) -> bool:
        """Whether the user wants this stage to run in any case."""
        forced = os.environ.get(FORCED_VARIABLE, "").splitlines()
        return not {"*", self._stage, *map(str, outputs)}.isdisjoint(forced)

    def write(self, outputs: list[Path]) -> None:
        """Records that the stage has made `outputs`."""
        record = {"made_from": self._made_from, "made": _made(outputs), "made_at_seconds": time.time()}
        files.write_json(self.path, record)


def is_other(shell_command: str, settings_texts: Mapping[str, str]) -> bool:
    """Whether the outputs of a rule's command have a record that does not fit: something else was put in their place.

    Args:
      shell_command: what the rule `stage` runs. Outputs without a record are not taken for others.
      settings_texts: contents of files of settings that may not be written yet, by path.
    """
    asked = _asked_of(shell_command)
    if asked is None:
        return False
    record = StageRecord(asked.record, asked.command, asked.code, asked.facts, asked.inputs, settings_texts)
    return bool(record.differences(asked.outputs))


def is_damaged(shell_command: str) -> bool:
    """Whether an output of a rule's command has another hash than its record says.

    Files above `LARGEST_COMPARED_BYTES` are left out.
    """
    asked = _asked_of(shell_command)
    try:
        made = files.read_json_object(asked.record)["made"] if asked else {}
        compared = [path for path in asked.outputs if made.get(path.as_posix())] if asked else []
    except (PipelineError, KeyError, AttributeError):  # a damaged record says nothing
        return False
    return any(_is_small(path) and files.sha256_file(path) != made[path.as_posix()] for path in compared)


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= LARGEST_COMPARED_BYTES


def _asked_of(shell_command: str) -> argparse.Namespace | None:
    """What a rule's command asks of scripts/stage.py; None where it is another command."""
    # What the shell does, as far as rules use it.
    plain = re.sub(r"\$\(dirname (\S+)\)", lambda found: os.path.dirname(found[1]), shell_command)
    words = shlex.split(plain)
    if "scripts/stage.py" not in words:
        return None
    return parse_command(words[words.index("scripts/stage.py") + 1 :])


def made_at_seconds(path: Path) -> float:
    """When the outputs of a record were made, in seconds since 1970, on whatever machine; 0 without a record."""
    try:
        return float(files.read_json_object(path)["made_at_seconds"])
    except (PipelineError, KeyError, TypeError, ValueError):
        return 0.0


def _options(command: list[str], settings_texts: Mapping[str, str]) -> dict[str, object]:
    """The words of a command by option; settings, which are a file of JSON, by key."""
    found: dict[str, list] = {"command": []}
    words = found["command"]
    for word in command:
        if word.startswith("--"):
            words = found.setdefault(word[2:], [])
        else:
            words.append(word)
    options = {name: words[0] if len(words) == 1 else words for name, words in found.items()}
    if isinstance(path := options.get("settings"), str):
        text = settings_texts.get(path) or (Path(path).read_text(encoding="utf-8") if Path(path).is_file() else "null")
        options["settings"] = json.loads(text)
    return options


def _made(outputs: Iterable[Path]) -> dict[str, str | None]:
    return _hashes([*outputs, *(beside for output in outputs for beside in _beside(output))])


def _hashes(paths: Iterable[Path]) -> dict[str, str | None]:
    """The SHA-256 of files and whole folders by name; None for what is not there."""
    return {
        path.as_posix(): files.sha256_tree(path)
        if path.is_dir()
        else files.sha256_file(path)
        if path.is_file()
        else None
        for path in paths
    }


def _beside(output: Path) -> Iterator[Path]:
    """What a stage makes that is no output of its rule, found by the output that vouches for it.

    A torn or missing output vouches for nothing; it differs itself.
    """
    try:
        if output.name == "model.json":
            yield from (output.with_name(name) for name in ("weights", "published"))
        elif output.name == "checkpoints.json":
            yield from (output.parent / each["path"] for each in files.read_json_object(output)["checkpoints"])
        elif output.name == "export.json":
            yield from (output.parent / name for name in files.read_json_object(output)["files"])
    except (PipelineError, KeyError, TypeError):
        return
