"""Measures the lengths that W3 forces: those of the base model's own completions, at temperature 1.

  python benchmarks/speed/lengths.py       # writes benchmarks/speed/w3-lengths.json; needs the weights (real_size.py)

A step has two of GSM8K's first questions and eight completions of each, by llama.cpp from the file of the weights.
"""

import dataclasses
import json
from pathlib import Path

import run
from real_size import inputs, with_real_inputs
from workloads import MEASURED_LENGTHS, WORKLOADS

STEPS = 8


def main() -> None:
    (workload,) = (each for each in WORKLOADS if each.name == "W3")
    a_step = workload.rows
    generations = workload.generations
    workload = dataclasses.replace(workload, kind="lengths", prompts=STEPS * workload.prompts)
    workload = with_real_inputs(workload)
    ids = [prompt for prompt in workload.prompt_ids() for _ in range(generations)]
    worker = run.Worker(
        run.BENCHMARKS_PYTHON, "llama.cpp Q4_K_M 64", dataclasses.replace(workload, ids=ids), 1, Path("/dev/stderr")
    )
    found = worker.step(len(ids))["lengths"]
    worker.end()
    steps = [found[start : start + a_step] for start in range(0, len(found), a_step)]
    about = f"{inputs(workload)}, temperature 1, at most {workload.limit_tokens} tokens; by lengths.py"
    lines = ",\n".join(f"  {json.dumps(step)}" for step in steps)
    MEASURED_LENGTHS.write_text(f'{{\n "of": {json.dumps(about)},\n "steps": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
