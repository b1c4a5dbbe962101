r"""What the training step of Gemma 2 2B takes on a TPU v5e-8, ours and stock Google Tunix's, by the TPU's compiler.

  make setup PLATFORM=tpu VENV=.venv-tpu
  .venv-tpu/bin/python benchmarks/tpu_step.py [--prompts 4] [--level screen] [--programs ours stock ...]

No TPU is needed. Compiles the recipe gemma2-2b-it (float32, LoRA 64, G 4, 256 + 768 tokens) on fsdp 2 × tp 4 at the
longest completions: ours, and stock's `Trainer` with its own loss, on the same abstract model, adapters and optimizer;
both also with rematerialisation (`training.remat`, Tunix's own `RematConfig.DECODER`). Prints temporaries, peak and the
bytes that all collectives make in one step, on each chip. (No FLOPs: the compiler counts a loop's body once, and only
ours makes logits in a loop.) A program takes minutes and some GB of memory.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.rl import common, function_registry
from tunix.rl.grpo import grpo_learner

from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.internals import jax_internals
from gsm8k_grpo.models import building
from gsm8k_grpo.preflight import compilation
from gsm8k_grpo.preflight.collectives import collective_bytes
from gsm8k_grpo.preflight.programs import Programs

MESH = {"fsdp": 2, "tp": 4}
PROGRAMS = ("ours", "stock", "ours-remat", "stock-remat")


def lowered(program: str, prompts: int) -> jax.stages.Lowered:
    """One of `PROGRAMS`, for micro-batches of so many prompts."""
    whose, _, remat = program.partition("-")
    how = {"prompts_per_step": prompts, "micro_batch_prompts": prompts, "remat": bool(remat)}
    chosen = effective_settings("gemma2-2b-it", {"mesh": MESH, "training": how})
    programs = Programs(chosen, compilation.make_mesh(ACCELERATORS["v5e-8"], **MESH))
    if whose == "ours":
        return programs.lower("train_step")
    trainer, example = programs._trainer, programs._example()
    if remat:
        building.rematerialise_layers(trainer.model)
    algorithm = grpo_learner.GRPOConfig(num_generations=chosen["training"]["num_generations"])
    algorithm.temperature = chosen["training"]["temperature"]  # as Tunix's learner sets it
    policy_loss = function_registry.get_policy_loss_fn(algorithm.policy_loss_fn)

    def loss(model: nnx.Module, train_example: common.TrainExample) -> tuple:
        return policy_loss(model, train_example, algo_config=algorithm, pad_id=0, eos_id=1)

    trainer.with_loss_fn(loss, has_aux=True)
    prompt = (programs.rows("train_step"), chosen["prompt"]["max_tokens"])  # each for each of its completions
    stocks = grpo_learner.TrainExample(
        prompt_ids=programs._array(prompt, jnp.int32),
        prompt_mask=programs._array(prompt, jnp.bool_),
        completion_ids=example.completion_ids,
        completion_mask=example.completion_mask,
        advantages=example.advantages,
        ref_per_token_logps=example.ref_per_token_logps,
        old_per_token_logps=None,
    )
    with jax_internals.devices_seen_as(programs._mesh):
        step = nnx.jit(trainer._train_step, donate_argnames="optimizer")
        return step.lower(trainer.model, trainer.optimizer, stocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4, help="of a micro-batch")
    parser.add_argument("--level", choices=tuple(compilation.OPTIMIZATION_LEVELS), default="screen")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    arguments = parser.parse_args()
    jax.config.update("jax_optimization_level", compilation.OPTIMIZATION_LEVELS[arguments.level])
    print("| program | temporaries, GiB | peak, GiB | collectives, GB |\n| --- | --- | --- | --- |")
    for program in arguments.programs:
        started = time.monotonic()
        compiled = lowered(program, arguments.prompts).compile()
        memory = compiled.memory_analysis()
        print(
            f"| {program} | {memory.temp_size_in_bytes / 2**30:.2f} | {memory.peak_memory_in_bytes / 2**30:.2f} | "
            f"{collective_bytes(compiled.as_text()) / 1e9:.2f} |",
            flush=True,
        )
        print(f"{program}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
