"""Measures the lengths that W3 forces: those of the base model's own completions, at temperature 1.

  python benchmarks/speed/lengths.py       # writes benchmarks/speed/w3-lengths.json; needs the weights (real_size.py)

A step has two of GSM8K's first questions and eight completions of each, drawn as an evaluation with samples draws them.
"""

import dataclasses
import json
import tempfile

import ours
from real_size import inputs, with_real_inputs
from workloads import MEASURED_LENGTHS, WORKLOADS, Tokenizer

STEPS = 5


def main() -> None:
    (workload,) = (each for each in WORKLOADS if each.name == "W3")
    generations, a_step = workload.generations, workload.rows
    workload = with_real_inputs(dataclasses.replace(workload, prompts=STEPS * workload.prompts))
    with tempfile.TemporaryDirectory() as folder:
        ours.configure_jax(folder)
        from gsm8k_grpo.evaluation.runner import BatchSampler
        from gsm8k_grpo.models.base_model import BaseModel
        from gsm8k_grpo.models.mesh import make_mesh

        mesh = make_mesh(1, 1)
        model = ours.make_model(workload, mesh, [], folder)
        base = BaseModel(model, model.config, Tokenizer(workload), (workload.stop,), {})
        drawing = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "max_completion_tokens": workload.limit_tokens}
        queue = [(prompt, sample) for prompt in range(workload.prompts) for sample in range(generations)]
        sampler = BatchSampler(base, model, mesh, True, drawing, 0, len(queue), workload.prompt_tokens)
        completions = {}
        for ended in sampler.complete(workload.prompt_texts(), queue, generations):
            completions |= ended
        found = [completions[row].tokens for row in queue]
    steps = [found[start : start + a_step] for start in range(0, len(found), a_step)]
    about = f"{inputs(workload)}, temperature 1, at most {workload.limit_tokens} tokens; by lengths.py"
    lines = ",\n".join(f"  {json.dumps(step)}" for step in steps)
    MEASURED_LENGTHS.write_text(f'{{\n "of": {json.dumps(about)},\n "steps": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
