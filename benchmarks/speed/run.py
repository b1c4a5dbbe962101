"""Speed and memory of a GRPO step and of greedy generation on the CPU: ours, stock Google Tunix, and TRL with PyTorch.

  make benchmark                                       # sets up both environments; writes benchmarks/speed/results.json
  python benchmarks/speed/run.py --output FILE         # the same, where they are set up
  python benchmarks/speed/run.py --quick --contestants ours stock --output FILE    # a smoke test

Each contestant of each workload (workloads.py) is a process of its own, so its peak memory is its own. Contestants
take turns, one step at a time, and only one computes: other load on the machine hits all alike. The first steps
compile; the seconds that they take beyond a later step are reported as compilation. Medians are over the steps after
them. (A step with lengths of another size compiles again and stands out among `step_seconds`.) All contestants'
completions are forced to the same lengths (forced.py), and run.py compares the lengths that they report.

Measure on a quiet machine. On a busy one PyTorch's threads wait for each other by spinning, and TRL becomes very slow;
with OMP_WAIT_POLICY=passive they sleep instead. Processor seconds (of all cores together) suffer least.

It prints a table for each workload. table.py makes the one in docs/performance.md from the JSON; that page tells how
the contestants differ.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import table
from workloads import QUICK, WORKLOADS, Workload

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
CONTESTANTS = ("ours", "stock", "trl")
PACKAGES = ("google-tunix", "jax", "flax", "qwix", "torch", "trl", "transformers", "peft", "accelerate")


class Worker:
    """The process of one contestant (worker.py)."""

    def __init__(self, python: Path, contestant: str, workload: Workload, steps: int, log: Path):
        """Starts the process and waits until it is ready for its first step."""
        description = json.dumps({"workload": dataclasses.asdict(workload), "steps": steps})
        started = time.perf_counter()
        self._log = log
        # Compilation is measured, so nobody may find compiled programs.
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        self._process = subprocess.Popen(
            [python, FOLDER / "worker.py", contestant, description],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        self._answer()
        self.ready_seconds = time.perf_counter() - started

    def step(self, lengths: list[int] | None) -> dict:
        """Has it make its next step with these lengths; returns its answer."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: _answer reads the reason from its log
            print(json.dumps(lengths), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"ERROR: a contestant ended early; its last words, from {self._log}:\n{self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def end(self) -> None:
        """Waits for the process to end, and stops it if it has steps left."""
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measure(
    workload: Workload, contestants: list[str], pythons: dict, warm_up: int, steps: int, logs: Path
) -> dict[str, dict]:
    """Has all contestants of one workload make their steps in turns; returns their summaries."""
    workers, replies = {}, {name: [] for name in contestants}
    try:
        for name in contestants:
            log = logs / f"{workload.name.replace(' ', '-')}-{name}.log"
            workers[name] = Worker(pythons[name], name, workload, warm_up + steps, log)
        for step in range(warm_up + steps):
            lengths = None if contestants[0] == "ours" else workload.lengths(step)
            for name in contestants:
                reply = workers[name].step(lengths)
                reply["load_average"] = os.getloadavg()[0]
                replies[name].append(reply)
                lengths = lengths or reply["lengths"]
                if reply["lengths"] != lengths:
                    sys.exit(f"ERROR: {workload.name}: lengths of {name} are {reply['lengths']}, expected {lengths}")
            check_lengths(workload, lengths)
            print(
                f"{workload.name}, step {step + 1} of {warm_up + steps}: "
                + ", ".join(f"{name} {replies[name][-1]['seconds']:.2f} s" for name in contestants),
                flush=True,
            )
    finally:
        for worker in workers.values():
            worker.end()
    return {
        name: {"ready_seconds": workers[name].ready_seconds} | summary(replies[name][:warm_up], replies[name][warm_up:])
        for name in contestants
    }


def check_lengths(workload: Workload, lengths: list[int]) -> None:
    """Exits unless there are as many completions, and as long, as the workload prescribes."""
    if len(lengths) != workload.rows or not workload.shortest <= min(lengths) <= max(lengths) <= workload.longest:
        sys.exit(
            f"ERROR: {workload.name}: expected {workload.rows} completions of {workload.shortest} to "
            f"{workload.longest} tokens, found {lengths}"
        )


def summary(warm_up: list[dict], steps: list[dict]) -> dict:
    """A contestant's medians over the steps after compilation."""
    seconds = statistics.median(step["seconds"] for step in steps)
    phases = {name: statistics.median(step["phases"].get(name, 0.0) for step in steps) for name in steps[0]["phases"]}
    rest = statistics.median(step["seconds"] - sum(step["phases"].values()) for step in steps)
    return {
        "seconds": seconds,
        "processor_seconds": statistics.median(step["processor_seconds"] for step in steps),
        "phase_seconds": phases | ({"rest": rest} if phases else {}),
        "tokens_per_second": statistics.median(sum(step["lengths"]) / step["seconds"] for step in steps),
        "compile_seconds": max(0.0, sum(step["seconds"] for step in warm_up) - len(warm_up) * seconds),
        "peak_memory_bytes": steps[-1]["peak_memory_bytes"],
        "step_seconds": [step["seconds"] for step in steps],
        "step_tokens": [sum(step["lengths"]) for step in steps],
        "load_averages": [step["load_average"] for step in steps],
    }


def conditions(pythons: dict) -> dict:
    """The conditions of a measurement: machine, versions, commit and date."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]  # adds -dirty for uncommitted changes
    commit = subprocess.run(describe, capture_output=True, text=True, cwd=ROOT)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip() or None,
        "processor": match[1] if (match := re.search(r"model name\s*:\s*(.+)", cpuinfo)) else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "versions": versions(sys.executable) | versions(pythons["trl"]),
    }


def versions(python: str | Path) -> dict[str, str]:
    """Versions of the libraries in the environment of a Python."""
    if not Path(python).exists():
        return {}
    code = f"""
import importlib.metadata, json
found = {{each.name.lower(): each.version for each in importlib.metadata.distributions() if each.name}}
print(json.dumps({{name: found[name] for name in {PACKAGES} if name in found}}))
"""
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=FOLDER / "results.json", help="JSON to write; other workloads stay in it"
    )
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    names = [workload.name for workload in WORKLOADS + QUICK]
    parser.add_argument("--workloads", nargs="+", choices=names, help="default: all")
    parser.add_argument("--steps", type=int, default=11, help="timed steps, after compilation")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them, which compile")
    parser.add_argument(
        "--trl-python", type=Path, default=ROOT / ".venv-benchmarks/bin/python", help="Python with envs/benchmarks.txt"
    )
    parser.add_argument("--quick", action="store_true", help="very small shapes: only checks that everything runs")
    arguments = parser.parse_args()
    contestants = [name for name in CONTESTANTS if name in arguments.contestants]
    pythons = {"ours": Path(sys.executable), "stock": Path(sys.executable), "trl": arguments.trl_python}
    if "trl" in contestants and not arguments.trl_python.exists():
        sys.exit(f"ERROR: {arguments.trl_python} is missing; make it with `make setup-benchmarks`, or leave out TRL")
    workloads = [
        workload
        for workload in (QUICK if arguments.quick else WORKLOADS)
        if not arguments.workloads or workload.name in arguments.workloads
    ]
    logs = arguments.output.with_suffix(".logs")
    logs.mkdir(parents=True, exist_ok=True)
    measured = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    where = conditions(pythons)
    for workload in workloads:
        found = measure(workload, contestants, pythons, arguments.warm_up, arguments.steps, logs)
        measured[workload.name] = {"conditions": where, "contestants": found}
        arguments.output.write_text(json.dumps(measured, indent=1) + "\n")
    print(table.markdown(measured))


if __name__ == "__main__":
    main()
