"""Preflight: its programs are those that training executes, what it says of them, and its verdicts."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import pytest

from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.preflight import alternatives, compilation, verdict
from gsm8k_grpo.preflight.programs import Programs
from gsm8k_grpo.preflight.text import table

# Tunix computes here for real, on a mesh of eight simulated devices; then the preflight compiles for the same mesh.
TRAINED_AND_PREFLIGHTED = """
import json, re, sys
from pathlib import Path

import jax
from flax import nnx
from jax._src import compiler

from gsm8k_grpo import models, preflight, prompts, runs, settings, tokenizers, training
from gsm8k_grpo.answers import Tags

made, compile_and_load = {}, compiler.backend_compile_and_load


def recorded(backend, module, *arguments, **options):
    program = compile_and_load(backend, module, *arguments, **options)
    name = str(module.operation.attributes["sym_name"]).strip('"')
    (text,) = program.hlo_modules()
    # Names and line numbers may differ: they also say what was traced before.
    tables = "\\n(FileNames|FunctionNames|FileLocations|StackFrames)\\n(.+\\n)*"
    text = re.sub(tables + "|, metadata={[^}]*}|stack_frame_id=[0-9]+|%[A-Za-z0-9_.-]+", "", text.to_string())
    facts = {
        "flops": program.cost_analysis().get("flops", 0.0),
        "inputs": list(map(str, program.get_parameter_shardings() or [])),
        "outputs": list(map(str, program.get_output_shardings() or [])),
        "text": text,
    }
    made.setdefault(name, []).append(facts)
    return program


compiler.backend_compile_and_load = recorded
folder = Path(sys.argv[1])
chosen = settings.effective("tiny", json.loads(sys.argv[2]))
mesh, block, prompt = models.make_mesh(4, 2), chosen["training"], chosen["prompt"]
many = " 7" * 14  # more than half of what prompts may have: they are padded to all of it
questions = [f"{name} has {index} cups.{many}" for index, name in enumerate(["Ana", "Ben", "Cleo", "Dan"] * 4)]
(folder / "tokenizer.model").write_bytes(tokenizers.train([prompts.build("", each) for each in questions] * 20, 400))
tokenizer = tokenizers.load(folder / "tokenizer.model")
graph, state = nnx.split(models.initialise(models.config(chosen["model"]["architecture"]), seed=0))
base = nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))
run = runs.Run(folder, block["num_iterations"])
run.resume([2])
policy = models.with_lora(base, block["lora"], 0, mesh)
cluster = training.make_cluster(policy, base, tokenizer, mesh, block, prompt["max_tokens"], preflight.STOP_IDS, 0, run)
rows = [
    {"id": str(index), "prompt": prompts.build("", each), "answer": "7", "prompt_tokens": 30}
    for index, each in enumerate(questions)
]
learner = training.Learner(cluster, block, Tags(**prompt["tags"]), rows, 0, preflight.STOP_IDS)
for _ in range(2):
    learner.update(learner.sample())
trained = dict(made)
jax.clear_caches()  # or nothing would be compiled again: to JAX, the programs are the same

programs = preflight.Programs(chosen, mesh)
found = {}
for name in programs.names:
    if not name.startswith("evaluation"):
        lowered = programs.lower(name)
        made.clear()
        programs.compiled(name, lowered.compile())
        ((module, (facts,)),) = made.items()
        found[name] = {"module": module, "preflight": facts, "training": trained[module]}
print(json.dumps(found))
"""
SMALL = {
    "mesh": {"fsdp": 4, "tp": 2},
    "model": {
        "architecture": {"num_layers": 1, "embed_dim": 64, "hidden_dim": 96, "head_dim": 16, "vocabulary_size": 400}
    },
    "prompt": {"max_tokens": 64},
    "training": {
        "prompts_per_step": 4,
        "micro_batch_prompts": 2,
        "num_generations": 4,
        "num_iterations": 2,
        "max_completion_tokens": 16,
        "lora": {"rank": 4},
    },
}


def python(program, *arguments, devices=8):
    """What a program prints in a process with so many simulated devices."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is compiled is recorded
            "PYTHONPATH": "scripts",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return python(TRAINED_AND_PREFLIGHTED, str(tmp_path_factory.mktemp("run")), json.dumps(SMALL))


@pytest.mark.parametrize(
    "name", ["rollout_prefill", "rollout_decode", "reference_log_probs", "old_log_probs", "train_step"]
)
def test_the_programs_are_those_that_training_executes(both, name):
    ours, executed = both[name]["preflight"], both[name]["training"]
    assert ours["flops"] > 1e5 and len(ours["inputs"]) > 10 and len(ours["outputs"]) >= 1
    # Compiled once; shorter batches are other programs.
    (same,) = [each for each in executed if (each["inputs"], each["flops"]) == (ours["inputs"], ours["flops"])]
    assert same["outputs"] == ours["outputs"]
    assert same["text"] == ours["text"]  # every operation with its shape and layout


DECODED = """
import json, sys, types
from pathlib import Path

import jax
from flax import nnx

from gsm8k_grpo import hlo, models, prompts, rollout, settings, tokenizers

chosen = settings.effective("tiny", json.loads(sys.argv[1]))
mesh = models.make_mesh(4, 2)
graph, state = nnx.split(models.initialise(models.config(chosen["model"]["architecture"]), seed=0))
model = nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))
asked = [prompts.build("", f"{name} has 3 cups.") for name in ("Ana", "Ben", "Cleo", "Dan")] * 2
path = Path(sys.argv[2], "tokenizer.model")
path.write_bytes(tokenizers.train(asked * 20, 400))
# Tunix shards activations only where the first device is no CPU.
jax.devices = lambda: [types.SimpleNamespace(platform="tpu")]
found = {}
for gathered in (True, False):
    sampler = rollout.Sampler(model, tokenizers.load(path), 80, mesh, gathered)
    with mesh:
        output = sampler(asked, max_generation_steps=12, max_prompt_length=64, eos_tokens=[107, 1])
        how = rollout.Drawing(12, (107, 1), 0.0, None, 1.0)
        state = sampler.abstract_state(sampler.lower_prefill(8, 1, 64, how))
        decode = sampler.lower_decode(state, how).compile()
    found[gathered] = {
        "tokens": [row.tolist() for row in output.tokens],
        "collectives": hlo.collectives(decode.as_text()),
        "weight_bytes": sampler.decoded_weight_bytes(),
        "cache": sorted({str(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state.cache)}),
    }
print(json.dumps(found))
"""


def test_decoding_gathers_the_weights_once_and_draws_the_same_tokens(tmp_path):
    """The CPU's compiler takes gathers out of a loop by itself; the TPU's does not (the next test)."""
    found = python(DECODED, json.dumps(SMALL), str(tmp_path))
    gathered, sharded = found["true"], found["false"]
    assert gathered["tokens"] == sharded["tokens"] and len(set(map(str, gathered["tokens"]))) > 1
    # Each weight is gathered whole along fsdp, once; but for the norms', which are whole already (32 of 64, on tp 2).
    norms = 5 * 32 * 4
    drawn = 8 * 12 * 4 + 8  # tokens, and which rows are done: whole in every process
    outside = gathered["collectives"]["outside"]["all-gather"]
    assert outside["bytes"] == gathered["weight_bytes"] - norms + drawn > 3 * sharded["weight_bytes"]
    # In the loop, activations alone: 2 rows of 64, not a weight's 64 × 48.
    assert gathered["collectives"]["in_loops"]["all-gather"]["bytes"] < 64 * 48 * 4
    assert gathered["cache"] == ["(2, 1, 16, 80)", "(2, 1, 80, 16)", "(8,)"]  # keys, values: of 8 rows and 2 KV heads


ON_TPU = """
import json, sys

from gsm8k_grpo import log_probs, preflight, settings
from gsm8k_grpo.accelerators import ACCELERATORS

log_probs.LOGITS_AT_A_TIME = 2**13  # several parts
found = {}
for weights in ("gathered", "sharded"):
    mesh = {"fsdp": 4, "tp": 2, "decode_weights": weights}
    chosen = settings.effective("tiny", {**json.loads(sys.argv[1]), "mesh": mesh})
    programs = preflight.Programs(chosen, preflight.make_mesh(ACCELERATORS["v5e-8"], 4, 2))
    for name in ("rollout_prefill", "rollout_decode"):
        record = preflight.compile_program(programs, name, "screen")
    found[weights] = {place: kinds.get("all-gather", {}) for place, kinds in record["collectives"].items()}
for name in ("reference_log_probs", "train_step"):
    record = preflight.compile_program(programs, name, "screen")
    found[name] = {place: kinds.get("all-gather", {}) for place, kinds in record["collectives"].items()}
print(json.dumps(found))
"""


def test_the_tpu_gathers_weights_for_each_token_unless_they_are_gathered_before(monkeypatch):
    pytest.importorskip("libtpu")
    for name, value in {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}.items():
        monkeypatch.setenv(name, value)
    found = python(ON_TPU, json.dumps(SMALL))
    tokens = 8 * 16 * 4  # that were drawn: whole in every process, after the loop
    assert found["sharded"]["outside"] == {"count": 1, "bytes": tokens}
    count, moved = (found["gathered"]["outside"][key] - drawn for key, drawn in (("count", 1), ("bytes", tokens)))
    left, before = found["gathered"]["in_loops"], found["sharded"]["in_loops"]
    # A layer's six matrices with an adapter's half each, and the embeddings; what is left are activations.
    assert count == 13 and before["count"] >= left["count"] + 13
    assert before["bytes"] >= moved + left["bytes"] and moved > 5 * left["bytes"], found
    # Logits are made in parts: the embedding's half (tp 2), 200 × 64, is gathered before them, not for each.
    for name in ("reference_log_probs", "train_step"):
        assert 0 < found[name]["in_loops"]["bytes"] < 200 * 64 * 4 / 10, found


def preflighted(folder, **changes):
    """What the stage writes for the tiny recipe with other settings."""
    chosen, output = merge(effective_settings("tiny", {}), changes), folder / "preflight.json"
    command = [sys.executable, "scripts/preflight.py", "--settings", json.dumps(chosen), "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(output.read_text()), "printed": done.stdout}


CARD = ACCELERATORS["rtx4090-24gb"]
ONE_CHIP = {**SMALL, "mesh": {"fsdp": 1, "tp": 1}, "preflight": {"price_per_chip_hour": 0.5}}


@pytest.fixture
def quick_compilation():
    """Sizes are what these tests are about."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_recipe_that_fits_gets_sizes_bounds_and_an_estimate(quick_compilation):
    progress = []
    answer = verdict.preflight(effective_settings("tiny", ONE_CHIP), CARD, progress.append)
    assert answer["verdict"] == "fits"
    names = [each["name"] for each in answer["programs"]]
    assert names == [
        *("rollout_prefill", "rollout_decode", "reference_log_probs", "old_log_probs", "train_step"),
        *("evaluation_prefill", "evaluation_decode"),
    ]
    for each in answer["programs"]:
        assert each["fits"] and each["needed_bytes"] >= each["peak_bytes"] + each["resident_bytes"] > 0
        assert each["bound_seconds"] == max(each["seconds_by"].values()) > 0
        assert any(line.startswith(f"{each['name']}: compiling") for line in progress)
    by_name = dict(zip(names, answer["programs"], strict=True))
    # Keys and values of 8 rows, 80 positions, 2 heads of 16, one layer, float32; and an index for each row.
    assert by_name["rollout_decode"]["kv_cache_bytes"] == 2 * 8 * 80 * 2 * 16 * 4 + 8 * 4
    # Moments and accumulated gradients of the adapters, and the counters.
    sizes = answer["model"]
    assert 3 * sizes["adapter_bytes"] < sizes["optimizer_bytes"] < 3 * sizes["adapter_bytes"] + 100
    assert by_name["rollout_decode"]["resident_bytes"] == sizes["optimizer_bytes"]
    assert sizes["adapter_bytes"] == 4 * sizes["lora_parameters"]
    assert sizes["base_bytes"] == 4 * sizes["base_parameters"]
    bound = answer["estimate"]
    assert bound["is"] == "an estimate" and "CPU compiler's program" in bound["assumptions"][-1]
    # 2 micro-batches of 16 tokens each; μ is 2.
    seconds = {name: each["bound_seconds"] for name, each in by_name.items()}
    step = 2 * (seconds["rollout_prefill"] + 16 * seconds["rollout_decode"])
    step += 2 * (seconds["reference_log_probs"] + seconds["old_log_probs"] + 2 * seconds["train_step"])
    assert bound["step_seconds"] == pytest.approx(step)
    assert bound["training_hours"] == pytest.approx(step * 60 / 3600)
    assert bound["price"] == pytest.approx(bound["training_hours"] * 0.5)
    printed = table(answer)
    assert (
        "\nfits\n" in printed and "hours of training, at a price of" in printed and "the CPU's: an estimate" in printed
    )


def test_a_recipe_that_does_not_fit_is_tried_with_other_settings_until_it_does(quick_compilation, monkeypatch):
    monkeypatch.setattr(Programs, "names", ["train_step"])  # the others take their time, and fit
    chosen = effective_settings("tiny", ONE_CHIP)
    (largest,) = verdict.examine(chosen, CARD, None, lambda _: None)["programs"]
    smaller_card = dataclasses.replace(CARD, usable_hbm_bytes=largest["needed_bytes"] - 1)
    answer = verdict.preflight(chosen, smaller_card, lambda _: None)
    assert answer["verdict"] == "does not fit" and "estimate" not in answer
    assert answer["reasons"][0].startswith("train_step needs ")
    assert any("ask again with preflight.level verdict" in text for text in answer["warnings"])
    (tried,) = answer["tried"]  # the first that is tried
    assert tried["settings"] == {"training": {"remat": True}} and tried["fits"]
    (smaller,) = tried["programs"]
    assert smaller["temporary_bytes"] < 0.9 * largest["temporary_bytes"]
    assert smaller["flops"] > 1.1 * largest["flops"]
    assert "fits with {'training': {'remat': True}}" in table(answer)


def test_what_is_tried_begins_with_what_costs_least():
    chosen = effective_settings("minigrpo-fast", {"training": {"remat": False, "micro_batch_prompts": 8}})
    tried = list(
        alternatives.alternatives(chosen, ["train_step", "evaluation_decode"], alternatives.mesh_sizes(chosen, 1))
    )
    assert tried == [
        {"training": {"remat": True}},
        *({"training": {"micro_batch_prompts": count}} for count in (4, 2, 1)),
        *({"evaluation": {"batch_size": size}} for size in (32, 16, 8)),
    ]
    assert {"training": {"remat": True}} not in alternatives.alternatives(chosen, ["rollout_prefill"], [])
    sharded = effective_settings("gemma2-2b-it", {"mesh": {"fsdp": 2}})
    assert next(alternatives.alternatives(sharded, ["rollout_decode"], [])) == {"mesh": {"decode_weights": "sharded"}}


def test_what_does_not_do_alone_is_tried_together(monkeypatch):
    """Before anything dearer is. What would be compiled fits where activations are an eighth of what they are."""

    def examine(chosen, accelerator, names, say):
        how = chosen["training"]
        activations = how["micro_batch_prompts"] / 8 * (0.25 if how["remat"] else 1)
        return {"programs": [{"name": "train_step", "fits": activations <= 0.125}]}

    monkeypatch.setattr(verdict, "examine", examine)
    chosen = effective_settings("minigrpo-fast", {"training": {"remat": False, "micro_batch_prompts": 8}})
    tried = verdict._try_alternatives(chosen, CARD, [{"name": "train_step"}], lambda _: None)
    assert [each["settings"]["training"] for each in tried] == [
        {"remat": True},
        {"micro_batch_prompts": 4},
        {"remat": True, "micro_batch_prompts": 4},
    ]
    assert [each["fits"] for each in tried] == [False, False, True]


def test_what_is_estimated_is_not_made_for_a_cpu():
    chosen, mesh = effective_settings("tiny", ONE_CHIP), compilation.make_mesh(CARD, 1, 1)
    estimated, own = (Programs(chosen, mesh, estimated) for estimated in (True, False))
    for name in ("rollout_decode", "train_step"):
        assert estimated.lower(name).as_text() != own.lower(name).as_text()


def test_room_is_found_for_the_cache_that_decoding_begins_with():
    """Of completions of 131 tokens it has places for 66 at first; a longer one is made while it is there."""
    change = {"training": {"max_completion_tokens": 131}, "prompt": {"max_tokens": 40}}
    programs = Programs(effective_settings("tiny", {**ONE_CHIP, **change}), compilation.make_mesh(CARD, 1, 1))
    rows = programs.rows("rollout_decode")
    for found, places in ((programs.kv_cache_bytes, 176), (programs.shorter_cache_bytes, 112)):
        # Keys and values of 2 heads of 16, one layer, float32; and an index for each row.
        assert found("rollout_decode") == pytest.approx(rows * (2 * 2 * 16 * 4 * places + 4), rel=1e-3)
    assert programs.shorter_cache_bytes("evaluation_decode") == 0  # 32 tokens: not worth another program


def test_what_cannot_be_sharded_is_said_before_anything_is_compiled(tmp_path):
    answer = preflighted(tmp_path, mesh={"fsdp": 2, "tp": 8}, preflight={"accelerator": "v5e-8"})
    assert answer["verdict"] == "cannot be sharded" and "programs" not in answer
    assert answer["mesh_sizes_that_work"] == [{"fsdp": 8, "tp": 1}, {"fsdp": 4, "tp": 2}]
    assert "mesh.tp: 8 does not divide the 2 KV heads; with these settings it can be 1, 2" in answer["reasons"]
    assert "mesh: fsdp 2 × tp 8 needs 16 chips, v5e-8 has 8" in answer["reasons"]


def test_without_the_tpus_compiler_it_says_what_to_install(tmp_path):
    """The real sentence, from an interpreter that finds no libtpu."""
    program = (
        "import importlib.util, sys; find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *more: None if name == 'libtpu' else find(name, *more); "
        "sys.path.insert(0, 'scripts'); import runpy; runpy.run_path('scripts/preflight.py', run_name='__main__')"
    )
    chosen = json.dumps(effective_settings("tiny", {}))
    command = [sys.executable, "-c", program, "--settings", chosen, "--output", str(tmp_path / "preflight.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ERROR: preflight.accelerator: v5e-8 needs the TPU's compiler (libtpu)" in done.stderr
    assert "make setup PLATFORM=tpu" in done.stderr and not (tmp_path / "preflight.json").exists()


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (200.00G) "
            "exceeds available HBM (15.75G).",
            200,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 17.25G of 15.75G hbm.",
            17.25,
        ),
        ("RESOURCE_EXHAUSTED: something else", 0),
    ],
)
def test_what_the_compiler_says_it_needed(text, gib):
    assert compilation.needed_bytes(text) == gib * 2**30
