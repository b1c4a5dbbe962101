r"""Runs one stage for a rule: keeps its log, notes a failure, and checks that the stage wrote what it must write.

  python scripts/stage.py --log results/logs/tiny/best.log --mark results/logs/failures/best-tiny \
      --record results/records/best-tiny.json --code HASH --inputs … --outputs results/tiny/best.json \
      -- python scripts/best.py --metrics … --output results/tiny/best.json

If the outputs are there and their record says that the stage would make the same, it takes them over instead.
"""

import sys

from gsm8k_grpo.common.stage_command import parse_command
from gsm8k_grpo.common.stage_record import StageRecord
from gsm8k_grpo.common.stage_runner import run_and_check


def main() -> int:
    """Runs the stage that the arguments name; returns the exit status."""
    asked = parse_command(description=__doc__)
    record = StageRecord(asked.record, asked.command, asked.code, asked.facts, asked.inputs)
    try:
        return run_and_check(asked.command, asked.log, asked.mark, asked.inputs, asked.outputs, record)
    except OSError as error:
        reason = f"{error.filename or asked.mark} cannot be written ({error.strerror})"
        print(f"ERROR: {reason}; free some space or make the folder writable, then run the same command again")
        return 1


if __name__ == "__main__":
    sys.exit(main())
