"""Whether runs have learned their format: on the same rows, the interval of the change lies above 0. Says what each has
reached.

python .ci/learned.py RECIPE-miniature ...
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
            failed.append(run)
    if failed:
        sys.exit(f"ERROR: no better format after training than before: {', '.join(failed)}")


if __name__ == "__main__":
    main()
