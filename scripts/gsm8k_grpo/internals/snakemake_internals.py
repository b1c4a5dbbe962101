"""Parts of Snakemake that behave otherwise than we need, each with the reason. All were seen in Snakemake 9.27.1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake import jobs, persistence, utils

_is_reason, _describe_reason = jobs.Reason.__bool__, jobs.Reason.__str__
_has_notes = persistence.PersistenceBase.has_metadata

UNKNOWN = "Snakemake has no notes of these files: where their own records match, they are taken over"


def run_what_has_no_notes(is_other: Callable[[str], bool], is_damaged: Callable[[str], bool]) -> None:
    """Runs a job where Snakemake has no notes (.snakemake/metadata) of its outputs, or notes of other files.

    By default Snakemake takes such files for finished where their times allow it, whatever they were made from. In a
    folder that was copied from another machine, that serves old results under new settings.

    Args:
      is_other: says of a job's shell command whether its outputs were made from something else. Only asked where an
        output has another time than the one that Snakemake noted.
      is_damaged: says of it whether an output has changed since, as on a failing disk: then its time is the noted one.
    """

    def has_notes(self: persistence.PersistenceBase, job: Any) -> bool:
        if not _has_notes(self, job):
            return False
        differs = is_other if _has_other_times(self, job) else is_damaged
        return not differs(_shell_command(job))

    persistence.PersistenceBase.has_metadata = has_notes
    jobs.Reason.__bool__ = lambda reason: _is_reason(reason) or reason.no_metadata
    jobs.Reason.__str__ = lambda reason: _describe_reason(reason) or (UNKNOWN if reason.no_metadata else "")


def _has_other_times(notes: persistence.PersistenceBase, job: Any) -> bool:
    """Whether an output of a job has been written, copied or touched since Snakemake noted it."""
    noted = {Path(output): notes.metadata(output).endtime for output in job.output}
    return any(path.exists() and path.stat().st_mtime != at for path, at in noted.items())


def _shell_command(job: Any) -> str:
    """What a job will run; "" for a rule without a command. (`job.shellcmd` needs a number that jobs get later.)"""
    if not job.rule.shellcmd:
        return ""
    parts = {name: getattr(job, name) for name in ("input", "output", "params", "wildcards", "log")}
    return utils.format(job.rule.shellcmd, **parts)
