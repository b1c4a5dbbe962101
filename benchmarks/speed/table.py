"""The table of speed in docs/performance.md, from the JSON that run.py writes.

  python benchmarks/speed/table.py benchmarks/speed/results.json [--page docs/performance.md]

Prints it, or puts it between the page's marks.
"""

import argparse
import json
from pathlib import Path

BEGIN, END = "<!-- benchmarks/speed/table.py: begin -->\n", "<!-- benchmarks/speed/table.py: end -->\n"
NAMES = {"ours": "ours", "stock": "stock Tunix", "trl": "TRL", "llama.cpp": "llama.cpp"}
# What is divided by ours, and its column.
RATIOS = {"seconds": "s ÷ ours", "processor_seconds": "processor ÷ ours", "peak_memory_bytes": "peak ÷ ours"}
PHASES = ("rollout", "reference", "update", "rest")


def markdown(measured: dict) -> str:
    """Tables with a row for each contestant of each workload, and the conditions.

    The first has the whole step; ratios are theirs to ours, of which the fastest counts: above 1, ours is faster or
    smaller. The second has the step's phases, where there are any. The third has what completes questions, with the
    share of the machine's limit.
    """
    whole, phases, answers = [], [], []
    for workload, entry in measured.items():
        contestants, label = entry["contestants"], workload
        finished = [each for name, each in contestants.items() if name.split()[0] == "ours" and "seconds" in each]
        ours = min(finished, key=lambda each: each["seconds"], default=None)
        for contestant, each in contestants.items():
            names, label = [label, _name(contestant, each)], ""
            peak = f"{each['peak_memory_bytes'] / 2**30:.2f}"
            if "killed" in each:
                whole.append([*names, "killed: out of memory", "", "", "", peak, *[""] * len(RATIOS)])
                continue
            ratios = [""] * len(RATIOS)
            if ours and each is not ours:
                ratios = [f"{each[key] / ours[key]:.2f} ×" for key in RATIOS]
            seconds, tokens = each["seconds"], f"{each['tokens_per_second']:,.0f}"
            processor, compilation = _seconds(each["processor_seconds"]), f"{each['compile_seconds']:.0f}"
            whole.append([*names, _seconds(seconds), processor, tokens, compilation, peak, *ratios])
            if each["phase_seconds"]:
                phases.append([*names, *(_seconds(each["phase_seconds"].get(phase)) for phase in PHASES)])
            if "machine" in entry:
                questions = each["step_completions"][-1] / seconds
                answers.append([*names, tokens, f"{questions:.2f}", f"{limit_seconds(entry, each) / seconds:.0%}"])
    parts = [_table(["", "", "s", "processor, s", "tokens/s", "compile, s", "peak, GiB", *RATIOS.values()], whole)]
    if phases:
        parts.append("Seconds of a step by phase:\n")
        parts.append(_table(["", "", *PHASES], phases))
    if answers:
        parts.append("Questions, and the seconds that the machine would need at its limit in those that were taken:\n")
        parts.append(_table(["", "", "tokens/s", "questions/s", "share of the limit"], answers))
        parts += [_machine(name, entry["machine"]) for name, entry in measured.items() if "machine" in entry]
    return "\n".join([*parts, *_conditions(measured)])


def _name(contestant: str, each: dict) -> str:
    first, *options = contestant.split()
    name = "`transformers`" if first == "trl" and not each.get("phase_seconds", True) else NAMES[first]
    return " ".join([name, *(f"({option} rows)" if option.isdecimal() else option for option in options)])


def limit_seconds(entry: dict, each: dict) -> float:
    """The seconds of a call of `answers` at the machine's limit, with the rows and the weights of a contestant.

    Prompts are products at the best measured rate. A step of decoding reads all weights once, at the best measured
    bandwidth, and makes the rows' products; what takes longer counts. No row waits, and attention costs nothing.
    """
    machine = entry["machine"].values()
    precision = (
        "float32" if each["weight_bytes"] > 3 * (entry["layer_parameters"] + entry["output_parameters"]) else None
    )
    gflops = max(limits[f"{precision or 'bfloat16'}_gflops"] for limits in machine)
    bandwidth = 1e9 * max(limits["gigabytes_per_second"] for limits in machine)
    flop_of_a_token = 2 * (entry["layer_parameters"] + entry["output_parameters"])
    prompts = 2 * entry["layer_parameters"] * entry["prompt_tokens"] / (gflops * 1e9)
    step = max(each["weight_bytes"] / bandwidth, flop_of_a_token * each["rows"] / (gflops * 1e9))
    return prompts + step * each["step_tokens"][-1] / each["rows"]


def _machine(workload: str, machine: dict) -> str:
    limits = "; ".join(
        f"{library} {each['float32_gflops']:.0f} GFLOP/s in float32, {each['bfloat16_gflops']:.0f} in bfloat16, "
        f"{each['gigabytes_per_second']:.1f} GB/s"
        for library, each in machine.items()
    )
    return f"The machine at {workload}, by benchmarks/speed/machine.py: {limits}.\n"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _conditions(measured: dict) -> list[str]:
    """A sentence on where and when; one for all workloads that were measured in the same conditions."""
    groups = {}
    for workload, entry in measured.items():
        where = entry["conditions"]
        finished = [each for each in entry["contestants"].values() if "seconds" in each]
        if not finished:
            continue
        steps = {len(each["step_seconds"]) for each in finished}
        versions = ", ".join(f"{name} {version}" for name, version in sorted(where["versions"].items()))
        sentence = (
            f"medians of {max(steps)} steps; {where['cores']} cores of {where['processor']}, "
            f"{where['date']}, commit {where['commit']}; Python {where['python']}, {versions}"
            + (f"; {where['inputs']}" if "inputs" in where else "")
            + (f"; OMP_WAIT_POLICY={where['OMP_WAIT_POLICY']}" if where["OMP_WAIT_POLICY"] else "")
        )
        loads = [load for each in finished for load in each["load_averages"]]
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
