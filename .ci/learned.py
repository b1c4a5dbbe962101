"""Whether runs have learned: on the same rows, the interval of the change of the format lies above 0. On each group of
rows that the data set has, the last number is right more often, with p < 0.01. Says what each run has reached.

python .ci/learned.py RUN ...
"""

import json
import sys
from pathlib import Path


def main() -> None:
    failed = []
    for run in sys.argv[1:]:
        base, final = (
            json.loads(Path("results", run, "evaluations", name, "metrics.json").read_text(encoding="utf-8"))
            for name in ("base", "final")
        )
        said = [f"{run}: {final['step']} steps, {final['split']}, n = {final['format_accuracy']['n']}"]
        for name in ("format_accuracy", "answer_accuracy", "flexible_accuracy"):
            before, after = (
                f"{100 * rate['value']:.1f} ({100 * rate['low']:.1f}-{100 * rate['high']:.1f})"
                for rate in (base[name], final[name])
            )
            said.append(f"{name} {before} -> {after}")
        print("; ".join(said))
        compared = json.loads(Path("results", run, "comparison.json").read_text(encoding="utf-8"))
        if compared["format"]["difference"]["low"] <= 0:
            failed.append(f"{run}: the format is no better after training than before")
        for name, verdicts in compared.get("groups", {}).items():
            last = verdicts["flexible"]
            change, p = 100 * last["difference"]["value"], last["mcnemar_p"]
            print(f"{run}, {name}: last number {change:+.1f} points of {last['n']} rows, McNemar p = {p:.1g}")
            if change <= 0 or p >= 0.01:
                failed.append(f"{run}: the last number is no better on the rows {name}")
    if failed:
        sys.exit(f"ERROR: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
