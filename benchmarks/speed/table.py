"""The table of speed in docs/performance.md, from the JSON that run.py writes.

  python benchmarks/speed/table.py benchmarks/speed/results.json [--page docs/performance.md]

Prints it, or puts it between the page's marks.
"""

import argparse
import json
from pathlib import Path

BEGIN, END = "<!-- benchmarks/speed/table.py: begin -->\n", "<!-- benchmarks/speed/table.py: end -->\n"
NAMES = {"ours": "ours", "stock": "stock Tunix", "trl": "TRL"}
PHASES = ("rollout", "reference", "update", "rest")


def markdown(measured: dict) -> str:
    """A row for each contestant of each workload; ratios are theirs to ours: above 1, ours is faster or smaller."""
    columns = ["", "", "s", "processor, s", *PHASES, "tokens/s", "compile, s", "peak, GiB", "s, processor, peak ÷ ours"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for workload, entry in measured.items():
        ours, label = entry["contestants"].get("ours"), workload
        for contestant, each in entry["contestants"].items():
            phases, ratios = each["phase_seconds"], ""
            if ours and each is not ours:
                keys = ("seconds", "processor_seconds", "peak_memory_bytes")
                ratios = ", ".join(f"{each[key] / ours[key]:.2f} ×" for key in keys)
            cells = [
                label,
                "`transformers`" if contestant == "trl" and not phases else NAMES[contestant],
                _seconds(each["seconds"]),
                _seconds(each["processor_seconds"]),
                *(_seconds(phases.get(phase)) for phase in PHASES),
                f"{each['tokens_per_second']:,.0f}",
                f"{each['compile_seconds']:.0f}",
                f"{each['peak_memory_bytes'] / 2**30:.2f}",
                ratios,
            ]
            lines.append(f"| {' | '.join(cells)} |")
            label = ""
    return "\n".join(lines) + "\n\n" + "\n".join(_conditions(measured)) + "\n"


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
    return [f"{', '.join(workloads)}: {sentence}." for sentence, workloads in groups.items()]


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
