r"""Memory and communication of a training step of Gemma 2 2B on a TPU v5e-8: ours and stock Tunix's, compiled only.

  make setup PLATFORM=tpu VENV=.venv-tpu
  .venv-tpu/bin/python benchmarks/tpu_step.py [--prompts 4] [--level screen] [--programs ours stock ...]

It needs no TPU. It compiles the recipe gemma2-2b-it (float32, LoRA 64, G 4, 256 + 768 tokens) on fsdp 2 × tp 4 for the
longest completions: our step, and stock's `Trainer` with its own loss on the same abstract model, adapters and
optimizer. Both are also compiled with rematerialisation (`training.remat`; Tunix's `RematConfig.DECODER`). It prints
temporaries, peak and the bytes of all collectives' results in one step, on each chip. It prints no FLOPs: the compiler
counts a loop's body once, and only our step computes logits in a loop. A program takes minutes and some GB of memory.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from gsm8k_grpo.preflight.environment import COMPILE_ONLY

os.environ |= COMPILE_ONLY

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
PROGRAMS = ("ours", "stock", "ours-selective", "ours-full", "stock-full")


def lower_step(program: str, prompts: int) -> jax.stages.Lowered:
    """Traces one of `PROGRAMS` for micro-batches of so many prompts."""
    whose, _, remat = program.partition("-")
    changes = {"prompts_per_step": prompts, "micro_batch_completions": 4 * prompts, "remat": remat or None}
    settings = effective_settings("gemma2-2b-it", {"mesh": MESH, "training": changes})
    programs = Programs(settings, compilation.make_mesh(ACCELERATORS["v5e-8"], **MESH))
    if whose == "ours":
        return programs.lower("gradient")
    trainer, example = programs.trainer, programs.training_example()
    if remat:
        building.rematerialise_layers(trainer.model)
    algorithm = grpo_learner.GRPOConfig(num_generations=settings["training"]["num_generations"])
    algorithm.temperature = settings["training"]["temperature"]  # Tunix's learner sets it too
    policy_loss = function_registry.get_policy_loss_fn(algorithm.policy_loss_fn)

    def loss(model: nnx.Module, train_example: common.TrainExample) -> tuple:
        return policy_loss(model, train_example, algo_config=algorithm, pad_id=0, eos_id=1)

    trainer.with_loss_fn(loss, has_aux=True)
    prompts_shape = (programs.rows("gradient"), settings["prompt"]["max_tokens"])  # a prompt for each completion
    stock_example = grpo_learner.TrainExample(
        prompt_ids=programs.abstract_array(prompts_shape, jnp.int32),
        prompt_mask=programs.abstract_array(prompts_shape, jnp.bool_),
        completion_ids=example.completion_ids,
        completion_mask=example.completion_mask,
        advantages=example.advantages,
        ref_per_token_logps=example.ref_per_token_logps,
        old_per_token_logps=None,
    )
    with jax_internals.devices_seen_as(programs.mesh):
        step = nnx.jit(trainer._train_step, donate_argnames="optimizer")
        return step.lower(trainer.model, trainer.optimizer, stock_example)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a micro-batch")
    parser.add_argument("--level", choices=tuple(compilation.OPTIMIZATION_LEVELS), default="screen")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    arguments = parser.parse_args()
    jax.config.update("jax_optimization_level", compilation.OPTIMIZATION_LEVELS[arguments.level])
    print("| program | temporaries, GiB | peak, GiB | collectives, GB |\n| --- | --- | --- | --- |")
    for program in arguments.programs:
        started = time.monotonic()
        compiled = lower_step(program, arguments.prompts).compile()
        memory = compiled.memory_analysis()
        print(
            f"| {program} | {memory.temp_size_in_bytes / 2**30:.2f} | {memory.peak_memory_in_bytes / 2**30:.2f} | "
            f"{collective_bytes(compiled.as_text()) / 1e9:.2f} |",
            flush=True,
        )
        print(f"{program}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
