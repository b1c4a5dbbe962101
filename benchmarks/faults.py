r"""Disturbs small runs of the pipeline again and again, runs the same command again, and looks at what comes of it.

  python benchmarks/faults.py --minutes 15 --seed 0 --work /tmp/faults

The faults: kills of a stage, of Snakemake or of both; flipped bits and cut files; a full disk and a read-only folder;
times in the past and the future; a copy of the results in a fresh clone. A fault ends in one of these ways:

  same bits           the same command made what an undisturbed run makes, to the last bit
  sentence            it stopped, and a sentence says why; or it went on, and named the damaged file
  not read            a damaged checkpoint or weight, which is compared with its hash when it is used
  wrong               something is not as in an undisturbed run, and nobody said a word
  traceback           something printed a traceback
  no reason           it stopped, and nobody said why
  hang                it did not end
  lost steps          it trained more steps again than lie between two checkpoints

The last five are faults of the pipeline: with one of them, the exit status is 1. All faults are written to
WORK/faults.jsonl.
"""

import argparse
import collections
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "helpers"), str(ROOT / "benchmarks")]

from fault_kinds import KINDS, Skipped  # noqa: E402
from fault_project import PRINTED, WRONG, make_whole  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15, help="how long faults are made, after an undisturbed run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="which faults to make")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; keeps the undisturbed run")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))  # so that nothing stays mounted
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as in the tests: programs this small compile in half the time
    whole = make_whole(arguments.work / "whole")
    log, found = arguments.work / "faults.jsonl", []
    log.unlink(missing_ok=True)
    end, kinds, number = time.monotonic() + 60 * arguments.minutes, list(arguments.kinds), 0
    while kinds and time.monotonic() < end:
        kind, rng = kinds[number % len(kinds)], random.Random(f"{arguments.seed} {number}")
        number += 1
        try:
            fault = KINDS[kind](whole, arguments.work / "disturbed", rng)
        except Skipped as reason:
            print(f"{kind}: skipped: {reason}", flush=True)
            kinds.remove(kind)
            continue
        fault = {"number": number - 1, "kind": kind, **fault}
        found.append(fault)
        with log.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(fault) + "\n")
        print(f"{number}: {kind}: {fault['what']}: {fault['end']}: {fault['said']}", flush=True)
    PRINTED.unlink(missing_ok=True)
    print(table(found))
    if any(fault["end"] in WRONG for fault in found):
        sys.exit(f"faults of the pipeline; see {log}")


def table(found: list[dict]) -> str:
    """How often each kind of fault ended in which way."""
    counts = collections.Counter((fault["kind"], fault["end"]) for fault in found)
    ends = sorted({end for _, end in counts}, key=lambda end: (end in WRONG, end))
    rows = [
        ("fault", *ends),
        *((kind, *(counts[kind, end] for end in ends)) for kind in dict.fromkeys(k for k, _ in counts)),
    ]
    rows.append(("all", *(sum(fault["end"] == end for fault in found) for end in ends)))
    return "\n".join("".join(f"{cell!s:>16}" for cell in row) for row in rows)


if __name__ == "__main__":
    main()
