"""Where the time of one of our workloads goes, operation by operation, by JAX's profiler.

  python benchmarks/speed/traced.py "W2 generation" > benchmarks/speed/w2-generation.txt

It traces the last of a few steps. For each compiled program it prints the seconds of all threads together and the
slowest operations with the shapes of their results. Programs of the same name (decoding with fewer rows) are added up,
and a shape is that of any of them.
"""

import argparse
import collections
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from real_size import with_real_inputs
from workloads import WORKLOADS, Workload

COMPILED = re.compile(r"module_\d+\.(.*)\.cpu_after_optimizations\.txt")
OPERATION = re.compile(r'%(\S+) = (\S+) \w+\([^)]*\)(?:.*?op_name="([^"]*)")?')


class Traced:
    """Stands in for turns.Turns and traces the last step."""

    def __init__(self, workload: Workload, steps: int, folder: str):
        self.steps, self.facts, self._workload, self._folder = steps, {}, workload, folder

    def __iter__(self) -> object:
        import jax

        for step in range(self.steps):
            if step == self.steps - 1:
                jax.profiler.start_trace(self._folder)
            self._started, self._processor = time.perf_counter(), time.process_time()
            yield self._workload.order(step, warm_up=self.steps - 1)
        jax.profiler.stop_trace()

    def phase(self, name: str, seconds: float) -> None:
        print(f"  {name} {seconds:.2f} s")

    def done(self, tokens: list[int]) -> None:
        seconds, processor = time.perf_counter() - self._started, time.process_time() - self._processor
        print(f"{sum(tokens)} tokens: {seconds:.2f} s, {processor:.2f} processor seconds", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=[each.name for each in WORKLOADS])
    parser.add_argument("--options", nargs="*", default=[], help="such as bfloat16")
    parser.add_argument("--steps", type=int, default=4, help="steps, of which the last is traced")
    parser.add_argument("--operations", type=int, default=12, help="operations to print of each program")
    arguments = parser.parse_args()
    (workload,) = (each for each in WORKLOADS if each.name == arguments.workload)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text {os.environ.get('XLA_FLAGS', '')}"
        os.environ["JAX_PLATFORMS"] = "cpu"
        import ours

        workload = with_real_inputs(workload)
        getattr(ours, workload.kind)(workload, Traced(workload, arguments.steps, folder), arguments.options)
        report(Path(folder), arguments.operations)


def report(folder: Path, count: int) -> None:
    """Prints the slowest operations, from the trace and the compiled programs in a folder."""
    import jax

    made = collections.defaultdict(dict)
    for path in folder.glob("*.cpu_after_optimizations.txt"):
        for name, shape, source in OPERATION.findall(path.read_text()):
            made[COMPILED.fullmatch(path.name)[1]].setdefault(name, (shape, source.rpartition("/")[2]))
    seconds, calls = collections.defaultdict(collections.Counter), collections.Counter()
    (trace,) = folder.glob("**/*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                program = dict(event.stats).get("hlo_module")
                if program and not event.name.startswith(("end: ", "while")):  # a loop's operations count instead
                    kind = (re.sub(r"[.\d]+$", "", event.name), *made[program].get(event.name, ("", "")))
                    seconds[program][kind] += event.duration_ns / 1e9
                    calls[program, kind] += 1
    total = sum(kinds.total() for kinds in seconds.values())
    for program, kinds in sorted(seconds.items(), key=lambda item: -item[1].total()):
        if kinds.total() < total / 100:
            break
        print(f"\n{program}: {kinds.total():.2f} s of all threads")
        for kind, each in kinds.most_common(count):
            print(f"{each:8.3f} s {calls[program, kind]:6} × {' '.join(kind)}")


if __name__ == "__main__":
    sys.exit(main())
