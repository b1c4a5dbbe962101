r"""Runs one stage for a rule: keeps its log, notes a failure, and checks that the stage wrote what it must write.

  python scripts/stage.py --log results/logs/tiny/best.log --mark results/logs/failures/tiny-best \
      --inputs results/tiny/evaluations-dev/base/metrics.json --outputs results/tiny/best.json -- \
      python scripts/best.py --metrics … --output results/tiny/best.json
"""

import argparse
import sys
from pathlib import Path

from gsm8k_grpo.common.stage_runner import run_and_check


def main() -> int:
    """Runs the stage that the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="file for everything that the stage prints")
    parser.add_argument("--mark", type=Path, required=True, help="file that stays when the stage fails")
    parser.add_argument("--inputs", type=Path, nargs="*", default=[], help="files that the stage reads")
    parser.add_argument("--outputs", type=Path, nargs="+", required=True, help="files that the stage must write")
    parser.add_argument("command", nargs="+", help="the stage itself, after --")
    arguments = parser.parse_args()
    try:
        return run_and_check(arguments.command, arguments.log, arguments.mark, arguments.inputs, arguments.outputs)
    except OSError as error:
        reason = f"{error.filename or arguments.mark} cannot be written ({error.strerror})"
        print(f"ERROR: {reason}; free some space or make the folder writable, then run the same command again")
        return 1


if __name__ == "__main__":
    sys.exit(main())
