"""Trains and decodes for real on a mesh of eight CPU devices, for test_programs.py: eight_devices.py SETTINGS FOLDER

Prints two things. `programs`: facts about each of the preflight's programs and about those of that name that two
training steps executed. `decoding`: with gathered and with sharded weights the drawn tokens, the collectives of the
program that prepares the weights and of the one that decodes, the bytes of the weights and the shards of the KV cache.
"""

import json
import re
import sys
import types
from pathlib import Path

import jax
from flax import nnx
from jax._src import compiler

from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.generation.decoding_state import DrawingOptions
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.models import building
from gsm8k_grpo.models.lora import make_policy
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from gsm8k_grpo.models.tokenizers import load_tokenizer
from gsm8k_grpo.preflight.collectives import count_collectives
from gsm8k_grpo.preflight.programs import PLACEHOLDER_STOP_IDS, Programs
from gsm8k_grpo.rewards.answers import Tags

compiled, compile_and_load = {}, compiler.backend_compile_and_load
# Names and line numbers also depend on what was traced before; they may differ.
NAMES = (
    "\n(FileNames|FunctionNames|FileLocations|StackFrames)\n(.+\n)*"
    "|, metadata={[^}]*}|stack_frame_id=[0-9]+|%[A-Za-z0-9_.-]+"
)


def record(backend, module, *arguments, **options):
    program = compile_and_load(backend, module, *arguments, **options)
    (hlo,) = program.hlo_modules()
    facts = {
        "flops": program.cost_analysis().get("flops", 0.0),
        "inputs": list(map(str, program.get_parameter_shardings() or [])),
        "outputs": list(map(str, program.get_output_shardings() or [])),
        "text": re.sub(NAMES, "", hlo.to_string()),
    }
    compiled.setdefault(str(module.operation.attributes["sym_name"]).strip('"'), []).append(facts)
    return program


compiler.backend_compile_and_load = record
settings, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
training, prompt, mesh = (
    settings["training"],
    settings["prompt"],
    make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"]),
)
long = " 7" * 14  # makes prompts longer than half of the limit: they are padded to all of it
questions = [f"{name} has {number} cups.{long}" for number, name in enumerate(["Ana", "Ben", "Cleo", "Dan"] * 4)]
prompts = [build_prompt("", question) for question in questions]
(folder / "tokenizer.model").write_bytes(train_tokenizer(prompts * 20, 400))
tokenizer = load_tokenizer(folder / "tokenizer.model")
graph, state = nnx.split(building.initialise(building.tunix_config(settings["model"]["architecture"]), seed=0))
base = nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))
policy = make_policy(base, training["lora"], 0, mesh)
run = Run(folder, training["num_iterations"])
run.resume([2])
rl_cluster = tunix_setup.make_rl_cluster(
    policy, base, tokenizer, mesh, training, prompt["max_tokens"], PLACEHOLDER_STOP_IDS, 0, run
)
rows = [{"id": str(number), "prompt": text, "answer": "7", "prompt_tokens": 30} for number, text in enumerate(prompts)]
learner = Learner(rl_cluster, training, Tags.of(prompt), rows, 0, PLACEHOLDER_STOP_IDS)
for _ in range(2):
    learner.update(learner.sample())
executed = dict(compiled)
jax.clear_caches()  # otherwise JAX reuses training's programs and compiles nothing

programs, facts = Programs(settings, mesh), {}
for name in programs.names:
    if not name.startswith("evaluation"):
        lowered = programs.lower(name)
        compiled.clear()
        programs.note_output_shardings(name, lowered.compile())
        ((module, (ours,)),) = compiled.items()
        facts[name] = {"preflight": ours, "training": executed[module]}

# Tunix shards activations only where the first device is no CPU.
jax.devices = lambda: [types.SimpleNamespace(platform="tpu")]
decoding, greedy = {}, DrawingOptions(12, (107, 1), 0.0, None, 1.0)
for weights in ("gathered", "sharded"):
    sampler = Sampler(base, tokenizer, 80, mesh, weights == "gathered")
    with mesh:
        output = sampler(prompts[:8], max_generation_steps=12, max_prompt_length=64, eos_tokens=[107, 1])
        state = sampler.abstract_state(sampler.lower_prefill(8, 1, 64, 80, greedy))
        lowered = {"weights": sampler.lower_lay_out(state), "decode": sampler.lower_decode(state, greedy)}
    decoding[weights] = {
        "tokens": [row.tolist() for row in output.tokens],
        **{name: count_collectives(each.compile().as_text()) for name, each in lowered.items()},
        "weight_bytes": sampler.decoded_weight_bytes(),
        "cache": sorted({str(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state.cache)}),
    }
print(json.dumps({"programs": facts, "decoding": decoding}))
