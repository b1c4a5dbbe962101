"""The preflight's programs are those that training executes, with the same sizes and shardings."""

import re

import jax
import pytest
from flax import nnx

from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models import building
from gsm8k_grpo.models.lora import make_policy
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from gsm8k_grpo.models.tokenizers import load_tokenizer
from gsm8k_grpo.preflight import compilation
from gsm8k_grpo.preflight.environment import COMPILE_ONLY
from gsm8k_grpo.preflight.programs import PLACEHOLDER_STOP_IDS, Programs
from gsm8k_grpo.preflight.prompt_beginning import common_tokens


@pytest.fixture(scope="module")
def recorded(on_eight_devices, tmp_path_factory):
    return on_eight_devices("eight_devices.py", tmp_path_factory.mktemp("run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("rollout_prefill", "rollout_weights", "rollout_decode"),
        *("reference_log_probs", "old_log_probs", "gradient", "optimizer_step"),
    ],
)
def test_programs_are_those_that_training_executes(recorded, name):
    ours, executed = recorded["programs"][name].values()
    assert (ours["flops"] > 1e4 or name == "rollout_weights") and len(ours["inputs"]) > 10 and len(ours["outputs"]) >= 1
    # Shorter batches are other programs of the same name. This one was compiled once.
    (same,) = [each for each in executed if (each["inputs"], each["flops"]) == (ours["inputs"], ours["flops"])]
    assert same["outputs"] == ours["outputs"]
    assert same["text"] == ours["text"]  # every operation with its shape and layout


@pytest.mark.slow
def test_decoding_gathers_the_weights_once_and_draws_the_same_tokens(recorded):
    """The CPU's compiler moves gathers out of a loop by itself; the TPU's does not (see the next test)."""
    gathered, sharded = recorded["decoding"].values()
    assert gathered["tokens"] == sharded["tokens"] and len(set(map(str, gathered["tokens"]))) > 1
    # Each weight is gathered along fsdp once, except the norms' (32 of 64 with tp 2), which are whole already.
    norms = 5 * 32 * 4
    moved = gathered["weights"]["outside"]["all-gather"]["bytes"]
    assert moved == gathered["weight_bytes"] - norms > 3 * sharded["weight_bytes"]
    assert "all-gather" not in sharded["weights"]["outside"]
    # What the host reads is whole in every process: the tokens, and numbers of each row.
    assert gathered["decode"]["outside"]["all-gather"]["bytes"] <= 8 * 12 * 4 + 8 * 3 * 4
    # The loop gathers activations alone: 2 rows of 64, and no weight of 64 × 48.
    assert gathered["decode"]["in_loops"]["all-gather"]["bytes"] < 64 * 48 * 4
    assert gathered["cache"] == ["(2, 1, 16, 80)", "(2, 1, 80, 16)", "(8,)"]  # keys, values: of 8 rows and 2 KV heads


@pytest.mark.tpu
@pytest.mark.slow
def test_the_tpu_gathers_weights_for_each_token_unless_they_are_gathered_before(on_eight_devices):
    pytest.importorskip("libtpu")
    found = on_eight_devices("compile_for_tpu.py", **COMPILE_ONLY)
    # What the host reads, whole in every process, after the loop: tokens of 16 rows, and numbers of each row.
    assert found["sharded"]["outside"] == found["gathered"]["outside"]
    assert found["sharded"]["outside"]["bytes"] <= 16 * 16 * 4 + 16 * 3 * 4
    count, moved = (found["weights"]["outside"][key] for key in ("count", "bytes"))
    left, before = found["gathered"]["in_loops"], found["sharded"]["in_loops"]
    # A layer's six matrices with an adapter's half each, and the embeddings. What is left are activations.
    assert count == 13 and before["count"] >= left["count"] + 13
    assert before["bytes"] >= moved + left["bytes"] and moved > 5 * left["bytes"], found
    # Logits are computed in parts. The embedding's half (tp 2), 200 × 64, is gathered once for all of them.
    for name in ("reference_log_probs", "gradient"):
        assert 0 < found[name]["in_loops"]["bytes"] < 200 * 64 * 4 / 10, found


def test_programs_for_another_accelerator_leave_out_optimisations_for_a_cpu(one_chip):
    mesh = compilation.make_mesh(ACCELERATORS["rtx4090-24gb"], 1, 1)
    estimated, own = (Programs(one_chip(), mesh, estimated) for estimated in (True, False))
    for name in ("rollout_decode", "gradient"):
        assert estimated.lower(name).as_text() != own.lower(name).as_text()


SYSTEM = "Write what you do, step by step, and then the number of cups that they have, which is the answer. " * 2


def test_prompts_that_begin_alike_have_the_programs_that_a_rollout_runs(one_chip, tmp_path):
    training = {"prompts_per_step": 9, "num_generations": 2, "micro_batch_completions": 6}
    settings = one_chip(prompt={"system": SYSTEM, "max_tokens": 256}, training=training)
    prompts = [build_prompt(SYSTEM, f"{name} has {'many ' * 9}cups.") for name in "ABCDEFGHI"]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_tokenizer(prompts * 20, 400))
    tokenizer, mesh, lora = load_tokenizer(path), make_mesh(1, 1), settings["training"]["lora"]
    tokens, _ = common_tokens(settings, path)
    assert 64 < tokens < len(tokenizer.encode(prompts[0]))
    programs = Programs(settings, mesh, common_tokens=tokens)
    names = ["rollout_prefix", "rollout_prefill"]
    assert programs.names[:2] == names and (programs.rows(names[0]), programs.rows(names[1])) == (1, 18)
    graph, state = nnx.split(building.initialise(building.tunix_config(settings["model"]["architecture"]), 0))
    base = nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))
    policy = make_policy(base, lora, 0, mesh)
    sampler, executed = Sampler(policy, tokenizer, 272, mesh, lora=lora), []

    def noting(program):
        def run(*arguments, **options):
            executed.append(program.lower(*arguments, **options))
            return program(*arguments, **options)

        return run

    sampler.prefill, sampler.prefill_prefix = noting(sampler.prefill), noting(sampler.prefill_prefix)
    asked = [prompt for prompt in prompts for _ in range(2)]
    with mesh:
        sampler(asked, 16, 256, list(PLACEHOLDER_STOP_IDS), 1.0, 1.0, None, repeats=2)
    for name, real in zip(names, executed, strict=True):
        # On one device, shardings are names alone.
        texts = [
            re.sub(r" \{sdy\.sharding = #sdy\.sharding<[^>]*>\}", "", each.as_text())
            for each in (programs.lower(name), real)
        ]
        assert texts[0] == texts[1]


def test_the_beginning_of_prompts_is_estimated_without_a_tokenizer(one_chip):
    found = [common_tokens(one_chip(prompt={"system": text}), None) for text in (SYSTEM, 2 * SYSTEM)]
    assert found[0][0] == pytest.approx(len(SYSTEM) / 4, abs=12) and "estimated" in found[0][1]
    assert found[1][0] - found[0][0] == pytest.approx(len(SYSTEM) / 4, abs=1)
    programs = Programs(one_chip(), make_mesh(1, 1), common_tokens=found[0][0])
    assert programs.names[0] == "rollout_prefill"  # 4 prompts save too little
    assert "evaluation_prefix" in programs.names
    plain = Programs(one_chip(), make_mesh(1, 1))
    held = programs.kv_cache_bytes("evaluation_prefix")
    for name in ("evaluation_decode", "evaluation_weights"):
        assert programs.resident_bytes(name) - plain.resident_bytes(name) == held > 0


def test_memory_is_counted_for_the_first_cache_of_decoding(one_chip):
    """For completions of 131 tokens it has room for 66 at first and is copied into the longer one."""
    settings = one_chip(training={"max_completion_tokens": 131}, prompt={"max_tokens": 40})
    programs = Programs(settings, compilation.make_mesh(ACCELERATORS["rtx4090-24gb"], 1, 1))
    rows = programs.rows("rollout_decode")
    for found, positions in ((programs.kv_cache_bytes, 176), (programs.first_cache_bytes, 112)):
        # Keys and values of 2 heads of 16, one layer, float32; and an index for each row.
        assert found("rollout_decode") == pytest.approx(rows * (2 * 2 * 16 * 4 * positions + 4), rel=1e-3)
    assert programs.first_cache_bytes("evaluation_decode") == 0  # 32 tokens are not worth another program


def test_a_token_reads_the_weights_and_on_average_the_mean_of_both_caches(one_chip):
    mesh, read = make_mesh(1, 1), {}
    for limit, positions in ((60, 104), (131, (112 + 176) / 2)):
        settings = one_chip(training={"max_completion_tokens": limit}, prompt={"max_tokens": 40})
        programs = Programs(settings, mesh)
        cache = programs.rows("rollout_decode") * 2 * 2 * 16 * 4 * positions  # as above
        read[limit] = programs.read_bytes("rollout_decode") - cache
    assert read[60] == pytest.approx(read[131], abs=200) and read[60] > programs.base_bytes
    assert programs.read_bytes("gradient") == 0
