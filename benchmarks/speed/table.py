"""The README's table of speed, from the JSON that run.py writes.

  python benchmarks/speed/table.py benchmarks/speed/results.json [--readme README.md]

Prints it, or puts it between the README's marks.
"""

import argparse
import json
from pathlib import Path

BEGIN, END = "<!-- benchmarks/speed/table.py: begin -->\n", "<!-- benchmarks/speed/table.py: end -->\n"
NAMES = {"ours": "ours", "stock": "stock Tunix", "trl": "TRL"}
PHASES = ("rollout", "reference", "update", "rest")


def markdown(measured: dict) -> str:
    """One row for each contestant of each workload; ratios are theirs to ours (above 1: ours is faster, or smaller)."""
    lines = [
        "| | | s | rollout | reference | update | rest | tokens/s | compile, s | peak memory, GiB | time, memory ÷ ours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    measurements = measured["measurements"]
    ours = {each["workload"]: each for each in measurements if each["contestant"] == "ours"}
    seen = set()
    for each in measurements:
        workload, contestant = each["workload"], each["contestant"]
        name = NAMES[contestant]
        if contestant == "trl" and not each["phase_seconds"]:
            name = "`transformers`"
        ratio = ""
        if workload in ours and contestant != "ours":
            time, memory = (each[key] / ours[workload][key] for key in ("seconds", "peak_memory_bytes"))
            ratio = f"{time:.2f} ×, {memory:.2f} ×"
        cells = [
            "" if workload in seen else workload,
            name,
            _seconds(each["seconds"]),
            *(_seconds(each["phase_seconds"].get(phase)) for phase in PHASES),
            f"{each['tokens_per_second']:,.0f}",
            f"{each['compile_seconds']:.0f}",
            f"{each['peak_memory_bytes'] / 2**30:.2f}",
            ratio,
        ]
        seen.add(workload)
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n\n" + _conditions(measured) + "\n"


def _conditions(measured: dict) -> str:
    conditions = measured["conditions"]
    loads = [load for each in measured["measurements"] for load in each["load_averages"]]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(conditions["versions"].items()))
    return (
        f"Medians of {conditions['steps']} steps, taken in turns; {conditions['cores']} cores of {conditions['processor']}, "
        f"load average {min(loads):.1f} to {max(loads):.1f}; commit {conditions['commit']}, {conditions['date']}; "
        f"Python {conditions['python']}, {versions}."
    )


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    text = markdown(json.loads(arguments.json.read_text()))
    if not arguments.readme:
        print(text)
        return
    readme = arguments.readme.read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    arguments.readme.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
