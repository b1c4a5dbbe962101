"""The table of speed in docs/performance.md, from the JSON that run.py writes.

  python benchmarks/speed/table.py benchmarks/speed/results.json [--page docs/performance.md]

Prints it, or puts it between the page's marks.
"""

import argparse
import json
from pathlib import Path

BEGIN, END = "<!-- benchmarks/speed/table.py: begin -->\n", "<!-- benchmarks/speed/table.py: end -->\n"
NAMES = {"ours": "ours", "stock": "stock Tunix", "trl": "TRL"}
# What is divided by ours, and its column.
RATIOS = {"seconds": "s ÷ ours", "processor_seconds": "processor ÷ ours", "peak_memory_bytes": "peak ÷ ours"}
PHASES = ("rollout", "reference", "update", "rest")


def markdown(measured: dict) -> str:
    """Two tables with a row for each contestant of each workload, and the conditions.

    The first has the whole step; ratios are theirs to ours: above 1, ours is faster or smaller. The second has the
    step's phases, where there are any.
    """
    whole, phases = [], []
    for workload, entry in measured.items():
        ours, label = entry["contestants"].get("ours"), workload
        for contestant, each in entry["contestants"].items():
            in_phases = each["phase_seconds"]
            names = [label, "`transformers`" if contestant == "trl" and not in_phases else NAMES[contestant]]
            ratios = [""] * len(RATIOS)
            if ours and each is not ours:
                ratios = [f"{each[key] / ours[key]:.2f} ×" for key in RATIOS]
            whole.append(
                [
                    *names,
                    _seconds(each["seconds"]),
                    _seconds(each["processor_seconds"]),
                    f"{each['tokens_per_second']:,.0f}",
                    f"{each['compile_seconds']:.0f}",
                    f"{each['peak_memory_bytes'] / 2**30:.2f}",
                    *ratios,
                ]
            )
            if in_phases:
                phases.append([*names, *(_seconds(in_phases.get(phase)) for phase in PHASES)])
            label = ""
    parts = [_table(["", "", "s", "processor, s", "tokens/s", "compile, s", "peak, GiB", *RATIOS.values()], whole)]
    if phases:
        parts.append("Seconds of a step by phase:\n")
        parts.append(_table(["", "", *PHASES], phases))
    return "\n".join([*parts, *_conditions(measured)])


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _conditions(measured: dict) -> list[str]:
    """A sentence on where and when; one for all workloads that were measured in the same conditions."""
    groups = {}
    for workload, entry in measured.items():
        where = entry["conditions"]
        steps = {len(each["step_seconds"]) for each in entry["contestants"].values()}
        versions = ", ".join(f"{name} {version}" for name, version in sorted(where["versions"].items()))
        sentence = (
            f"medians of {max(steps)} steps; {where['cores']} cores of {where['processor']}, {where['date']}, "
            f"commit {where['commit']}; Python {where['python']}, {versions}"
            + (f"; OMP_WAIT_POLICY={where['OMP_WAIT_POLICY']}" if where["OMP_WAIT_POLICY"] else "")
        )
        loads = [load for each in entry["contestants"].values() for load in each["load_averages"]]
        groups.setdefault(sentence, []).append(f"{workload} (load average {min(loads):.1f} to {max(loads):.1f})")
    return [f"{', '.join(workloads)}: {sentence}.\n" for sentence, workloads in groups.items()]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    text = markdown(json.loads(arguments.json.read_text()))
    if not arguments.page:
        print(text)
        return
    page = arguments.page.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    arguments.page.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
