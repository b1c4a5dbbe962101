"""The preflight's verdict: sizes, bounds, the settings that it tries, and its messages."""

import dataclasses
import importlib.util
import json
import os
import runpy
import sys

import pytest

from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.models import layered
from gsm8k_grpo.preflight import alternatives, compilation, verdict
from gsm8k_grpo.preflight.programs import Programs
from gsm8k_grpo.preflight.text import result_text

CARD = ACCELERATORS["rtx4090-24gb"]


@pytest.fixture(scope="module")
def fitting(one_chip):
    """(The result for a recipe that fits, its lines of progress)."""
    progress = []
    return verdict.run_preflight(one_chip(), CARD, progress.append), progress


def test_each_program_has_sizes_and_bounds(fitting):
    result, progress = fitting
    names = [each["name"] for each in result["programs"]]
    assert names == [
        *("rollout_prefill", "rollout_decode", "reference_log_probs", "old_log_probs", "gradient"),
        *("optimizer_step", "evaluation_prefill", "evaluation_decode"),
    ]
    for each in result["programs"]:
        assert each["fits"] and each["needed_bytes"] >= each["peak_bytes"] + each["resident_bytes"] > 0
        assert each["bound_seconds"] == max(each["seconds_by"].values()) > 0
        assert any(line.startswith(f"{each['name']}: compiling") for line in progress)
    decode = result["programs"][1]
    # Keys and values of 16 rows, 80 positions, 2 heads of 16, one layer, float32; and an index for each row.
    assert decode["kv_cache_bytes"] == 2 * 16 * 80 * 2 * 16 * 4 + 16 * 4
    # Moments of the adapters, and the counters.
    sizes = result["model"]
    assert 2 * sizes["adapter_bytes"] < sizes["optimizer_bytes"] < 2 * sizes["adapter_bytes"] + 100
    resident = {each["name"]: each["resident_bytes"] for each in result["programs"]}
    assert resident["rollout_decode"] == resident["gradient"] == sizes["optimizer_bytes"]
    assert resident["reference_log_probs"] == sizes["adapter_bytes"] + sizes["optimizer_bytes"]
    assert resident["optimizer_step"] == sizes["base_bytes"]
    assert sizes["adapter_bytes"] == 4 * sizes["lora_parameters"]
    assert sizes["base_bytes"] == 4 * sizes["base_parameters"]
    assert result["disk"]["checkpoint_bytes"] == 3 * sizes["adapter_bytes"]  # the adapters as the model has them
    assert "disk: base model " in result_text(result)


def test_a_recipe_that_fits_gets_an_estimate(fitting):
    result, _ = fitting
    assert result["verdict"] == "fits"
    estimate = result["estimate"]
    assert estimate["is"] == "an estimate" and "CPU compiler's program" in estimate["assumptions"][-1]
    # One rollout of all completions, of 16 tokens each; 2 micro-batches; μ is 2.
    seconds = {each["name"]: each["bound_seconds"] for each in result["programs"]}
    step = seconds["rollout_prefill"] + 16 * seconds["rollout_decode"]
    step += 2 * (seconds["reference_log_probs"] + seconds["old_log_probs"] + 2 * seconds["gradient"])
    step += 2 * seconds["optimizer_step"]
    assert estimate["step_seconds"] == pytest.approx(step)
    assert estimate["training_hours"] == pytest.approx(step * 60 / 3600)
    assert estimate["price"] == pytest.approx(estimate["training_hours"] * 0.5)
    text = result_text(result)
    assert "\nfits\n" in text and "hours of training, at a price of" in text and "the CPU's: an estimate" in text
    assert f"{'gradient':<20}" in text and "17.99 GiB" in text


def test_other_settings_are_tried_until_the_recipe_fits(fitting, one_chip, monkeypatch):
    monkeypatch.setattr(Programs, "names", ["gradient", "optimizer_step"])  # the others fit
    monkeypatch.setattr(layered, "KEEP_FROM_TERMS", 32)  # or nothing of so small a model is kept
    (largest,) = [each for each in fitting[0]["programs"] if each["name"] == "gradient"]
    smaller_card = dataclasses.replace(CARD, usable_hbm_bytes=largest["needed_bytes"] - 1)
    result = verdict.run_preflight(one_chip(), smaller_card, lambda _: None)
    assert result["verdict"] == "does not fit" and "estimate" not in result
    assert result["reasons"][0].startswith("gradient needs ")
    assert any("ask again with preflight.level verdict" in text for text in result["warnings"])
    (tried,) = result["tried"]  # the first attempt succeeds
    assert tried["settings"] == {"training": {"remat": "selective"}} and tried["fits"]
    smaller, last = tried["programs"]  # a program that fits does not end the attempt
    assert (smaller["name"], last["name"]) == ("gradient", "optimizer_step")
    assert smaller["temporary_bytes"] < 0.9 * largest["temporary_bytes"]
    assert smaller["flops"] > 1.1 * largest["flops"]
    assert "fits with {'training': {'remat': 'selective'}}" in result_text(result)


def test_the_cheapest_change_is_tried_first():
    settings = effective_settings("minigrpo-fast", {"training": {"remat": None, "micro_batch_completions": 16}})
    meshes = alternatives.possible_meshes(settings, 1)
    assert list(alternatives.alternative_settings(settings, ["gradient", "evaluation_decode"], meshes)) == [
        *({"training": {"remat": remat}} for remat in ("selective", "full")),
        *({"training": {"micro_batch_completions": count}} for count in (8, 4, 2, 1)),
        *({"evaluation": {"batch_size": size}} for size in (32, 16, 8)),
    ]
    others = alternatives.alternative_settings(settings, ["evaluation_decode"], [])
    assert not any("training" in each for each in others)
    sharded = effective_settings("gemma2-2b-it", {"mesh": {"fsdp": 2}})
    first = next(alternatives.alternative_settings(sharded, ["rollout_decode"], []))
    assert first == {"mesh": {"decode_weights": "sharded"}}


def test_changes_that_fail_alone_are_tried_together(monkeypatch):
    """Before dearer ones. Compilation is replaced: the recipe fits where activations are an eighth of its own."""

    def compile_programs(settings, *_):
        training = settings["training"]
        share = {None: 1, "selective": 0.5, "full": 0.25}[training["remat"]]
        activations = training["micro_batch_completions"] / 16 * share
        return {"programs": [{"name": "gradient", "fits": activations <= 0.125}]}

    monkeypatch.setattr(verdict, "compile_programs", compile_programs)
    settings = effective_settings("minigrpo-fast", {"training": {"remat": None, "micro_batch_completions": 16}})
    tried = verdict.search_fitting_settings(settings, CARD, ["gradient"], lambda _: None)
    assert [each["settings"]["training"] for each in tried] == [
        {"remat": "selective"},
        {"remat": "full"},
        {"micro_batch_completions": 8},
        {"remat": "full", "micro_batch_completions": 8},
    ]
    assert [each["fits"] for each in tried] == [False, False, False, True]


@pytest.fixture
def run_stage(root, tmp_path, monkeypatch):
    """Runs scripts/preflight.py for the tiny recipe with changes; returns the file that it writes."""

    def run(**changes):
        settings, output = json.dumps(merge(effective_settings("tiny", {}), changes)), tmp_path / "preflight.json"
        monkeypatch.setattr(sys, "argv", ["preflight.py", "--settings", settings, "--output", str(output)])
        monkeypatch.setattr(os, "environ", dict(os.environ))
        runpy.run_path(str(root / "scripts" / "preflight.py"), run_name="__main__")
        return json.loads(output.read_text())

    return run


def test_sizes_that_no_mesh_can_shard_are_refused_before_compilation(run_stage, capsys):
    result = run_stage(mesh={"fsdp": 2, "tp": 8}, preflight={"accelerator": "v5e-8"})
    assert result["verdict"] == "cannot be sharded" and "programs" not in result
    assert result["mesh_sizes_that_work"] == [{"fsdp": 8, "tp": 1}, {"fsdp": 4, "tp": 2}]
    assert "mesh.tp: 8 does not divide the 2 KV heads; with these settings it can be 1, 2" in result["reasons"]
    assert "mesh: fsdp 2 × tp 8 needs 16 chips, v5e-8 has 8" in result["reasons"]
    assert "libtpu" in result["provenance"]["versions"]
    assert "cannot be sharded\n  mesh.tp: 8 does not divide" in capsys.readouterr().out


def test_without_libtpu_the_error_names_the_installation(run_stage, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "libtpu" else find_spec(name, *more)
    )
    with pytest.raises(SystemExit) as ended:
        run_stage()
    assert "ERROR: preflight.accelerator: v5e-8 needs the TPU's compiler (libtpu)" in ended.value.code
    assert "make setup PLATFORM=tpu" in ended.value.code and not (tmp_path / "preflight.json").exists()


@pytest.mark.parametrize(
    ("error", "gib"),
    [
        ("memory required for HLO temporaries (200.00G) exceeds available HBM (15.75G).", 200),
        ("Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm.", 17.25),
        ("something else", 0),
    ],
)
def test_needed_memory_is_read_from_the_compilers_error(error, gib):
    assert compilation.needed_bytes(f"RESOURCE_EXHAUSTED: {error}") == gib * 2**30
