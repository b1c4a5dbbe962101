"""A logger plugin for Snakemake (`--logger plan`): writes each planned job as a JSON line to the file $PLAN."""

import json
import os
from logging import LogRecord

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent


class LogHandler(LogHandlerBase):
    """Writes what Snakemake knows of a job, which its own log shortens to the rule's message."""

    def emit(self, record: LogRecord) -> None:
        if getattr(record, "event", None) == LogEvent.JOB_INFO:
            names = ("rule_name", "wildcards", "input", "output", "log", "reason", "resources")
            job = {name: getattr(record, name) for name in names}
            job["resources"] = dict(job["resources"].items())
            with open(os.environ["PLAN"], "a", encoding="utf-8") as handle:
                handle.write(json.dumps(job, default=str) + "\n")

    @property
    def writes_to_stream(self) -> bool:
        return False

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True

    @property
    def has_formatter(self) -> bool:
        return True

    @property
    def needs_rulegraph(self) -> bool:
        return False
