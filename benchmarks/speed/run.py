"""Speed and memory of a GRPO step and of greedy generation on the CPU: ours against others.

Stock Google Tunix, TRL with PyTorch and, in generation, llama.cpp.

  make benchmark                                       # sets up both environments; writes benchmarks/speed/results.json
  python benchmarks/speed/run.py --output FILE         # the same, where they are set up
  python benchmarks/speed/run.py --quick --contestants ours stock --output FILE    # a smoke test

Each contestant of each workload (workloads.py) is a process of its own, so its peak memory is its own. Contestants
take turns, one step at a time, and only one computes: other load on the machine hits all alike. Of a real size (W3)
memory holds one at a time, so they run one after the other; a contestant that the kernel kills for its memory is
reported as killed. The first steps compile; the seconds that they take beyond a later step are reported as compilation.
Medians are over the steps after them. (A step with lengths of another size compiles again and stands out among
`step_seconds`.) All contestants' completions are forced to the same lengths (forced.py), except those of `answers`,
which end by themselves.

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
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import table
from real_size import QUESTIONS, WEIGHTS, inputs, with_real_inputs
from workloads import QUICK, WORKLOADS, Workload

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
BENCHMARKS_PYTHON = ROOT / ".venv-benchmarks" / "bin" / "python"
PIPELINE = ("ours", "stock")  # what runs in the pipeline's environment; all others in that of the benchmarks
PACKAGES = ("google-tunix", "jax", "flax", "qwix", "torch", "trl", "transformers", "peft", "accelerate")
PACKAGES += ("llama_cpp_python",)


class Killed(SystemExit):
    """The kernel has killed a contestant, which had reached `peak_memory_bytes`."""

    def __init__(self, contestant: str, peak_memory_bytes: int):
        gibibytes = peak_memory_bytes / 2**30
        super().__init__(f"ERROR: {contestant}: was killed with {gibibytes:.1f} GiB (out of memory?)")
        self.peak_memory_bytes = peak_memory_bytes


class Worker:
    """The process of one contestant (worker.py)."""

    def __init__(self, python: Path, contestant: str, workload: Workload, steps: int, log: Path):
        """Starts the process and waits until it is ready for its first step."""
        started = time.perf_counter()
        self._contestant, self._log = contestant, log
        # Compilation is measured, so nobody may find compiled programs.
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        self._process = subprocess.Popen(
            [python, FOLDER / "worker.py", contestant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        self._send({"workload": dataclasses.asdict(workload), "steps": steps})
        self._answer()
        self.ready_seconds = time.perf_counter() - started

    def step(self, order: list[int] | int | None) -> dict:
        """Has it make its next step as `Workload.order` says; returns its answer.

        Raises:
          Killed: by the kernel.
        """
        self._send(order)
        return self._answer()

    def _send(self, message: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended: _answer reads the reason from its log
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            _, status, usage = os.wait4(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            if self._process.returncode == -signal.SIGKILL:
                raise Killed(self._contestant, usage.ru_maxrss * 1024)
            sys.exit(f"ERROR: a contestant ended early; its last words, from {self._log}:\n{self._last_words()}")
        return json.loads(line)

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def end(self) -> None:
        """Waits for the process to end, and stops it if it has steps left."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measure_or_killed(workload: Workload, contestant: str, pythons: dict, logs: Path) -> dict[str, dict]:
    """As `measure` for one contestant, which the kernel may kill for its memory."""
    try:
        return measure(workload, [contestant], pythons, logs)
    except Killed as killed:
        print(f"{workload.name}: {killed}", flush=True)
        return {contestant: {"killed": True, "peak_memory_bytes": killed.peak_memory_bytes}}


def measure(workload: Workload, contestants: list[str], pythons: dict, logs: Path) -> dict[str, dict]:
    """Has contestants of one workload make their steps in turns; returns their summaries."""
    workers, replies, warm_up = {}, {name: [] for name in contestants}, workload.warm_up
    steps = warm_up + workload.steps
    try:
        for name in contestants:
            log = logs / f"{workload.name}-{name}.log".replace(" ", "-")
            workers[name] = Worker(pythons[name.split()[0] in PIPELINE], name, workload, steps, log)
        for step in range(steps):
            order = workload.order(step, warm_up)
            for name in contestants:
                reply = workers[name].step(order)
                reply["load_average"] = os.getloadavg()[0]
                replies[name].append(reply)
                _check(workload, name, order, reply["lengths"])
            print(
                f"{workload.name}, step {step + 1} of {steps}: "
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


def _check(workload: Workload, name: str, order: list[int] | int, lengths: list[int]) -> None:
    """Exits unless a contestant's completions are as many, and as long, as it was told."""
    if workload.kind == "answers":
        right = len(lengths) == order and 1 <= min(lengths) <= max(lengths) <= workload.limit_tokens
    else:
        right = lengths == order
    if not right:
        sys.exit(f"ERROR: {workload.name}: lengths of {name} are {lengths}, expected {order}")


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
        "step_completions": [len(step["lengths"]) for step in steps],
        **steps[-1]["facts"],
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
        "versions": versions(pythons[True]) | versions(pythons[False]),
    }


def machine_limits(pythons: dict) -> dict:
    """What machine.py measures with each environment's library."""
    found = {}
    for python in pythons.values():
        if python.exists():
            ran = subprocess.run([python, FOLDER / "machine.py"], capture_output=True, text=True, check=True)
            found |= json.loads(ran.stdout)
    return found


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
    parser.add_argument("--contestants", nargs="+", help="their names, or first words; default: all of a workload")
    names = [workload.name for workload in WORKLOADS + QUICK]
    parser.add_argument("--workloads", nargs="+", choices=names, help="default: all")
    parser.add_argument("--steps", type=int, help="timed steps, after compilation; default: the workload's")
    parser.add_argument("--warm-up", type=int, help="steps before them, which compile; default: the workload's")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of Qwen2.5 0.5B's, for W3")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="GSM8K's train.jsonl, for W3")
    parser.add_argument("--trl-python", type=Path, default=BENCHMARKS_PYTHON, help="Python with envs/benchmarks.txt")
    parser.add_argument("--quick", action="store_true", help="very small shapes: only checks that everything runs")
    arguments = parser.parse_args()
    # By whether it is the pipeline's.
    pythons = {True: Path(sys.executable), False: arguments.trl_python}
    logs = arguments.output.with_suffix(".logs")
    logs.mkdir(parents=True, exist_ok=True)
    measured = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    where = conditions(pythons)
    for workload in QUICK if arguments.quick else WORKLOADS:
        if arguments.workloads and workload.name not in arguments.workloads:
            continue
        contestants = _contestants(workload, arguments.contestants, arguments.trl_python)
        given = {"steps": arguments.steps, "warm_up": arguments.warm_up}
        workload = dataclasses.replace(workload, **{key: value for key, value in given.items() if value is not None})
        workload = with_real_inputs(workload, arguments.weights, arguments.questions)
        entry = {"conditions": where | ({"inputs": inputs(workload)} if workload.real else {}), "contestants": {}}
        earlier = measured.get(workload.name, {})
        if not workload.together and earlier.get("conditions") == entry["conditions"]:
            entry = earlier  # contestants that were measured in the same conditions stay
        if workload.kind == "answers":
            entry["prompt_tokens"] = sum(map(len, workload.prompt_ids()))
            entry["layer_parameters"] = workload.layer_parameters
            entry["output_parameters"] = workload.output_parameters
            entry["machine"] = machine_limits(pythons)
        measured[workload.name] = entry
        if workload.together:
            entry["contestants"] = measure(workload, contestants, pythons, logs)
        for contestant in () if workload.together else contestants:
            entry["contestants"] |= measure_or_killed(workload, contestant, pythons, logs)
            _write(measured, arguments.output)
        _write(measured, arguments.output)
    print(table.markdown(measured))


def _write(measured: dict, path: Path) -> None:
    path.write_text(json.dumps(measured, indent=1) + "\n")


def _contestants(workload: Workload, wanted: list[str] | None, benchmarks_python: Path) -> list[str]:
    """The workload's contestants that are wanted."""
    found = [name for name in workload.contestants if not wanted or name in wanted or name.split()[0] in wanted]
    if not benchmarks_python.exists() and not {name.split()[0] for name in found} <= {*PIPELINE}:
        sys.exit(
            f"ERROR: {benchmarks_python} is missing; make it with `make setup-benchmarks`, or name the --contestants "
            f"{' and '.join(PIPELINE)} alone"
        )
    return found


if __name__ == "__main__":
    main()
