"""How much disk a run takes, by its settings, and what is said where less is free."""

import os
import shutil
import subprocess

import pytest

from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.models import families
from gsm8k_grpo.preflight import disk

GB = 10**9


def test_adapters_are_counted_as_the_model_counts_them():
    # 79,233,024 is what training and preflight print (docs/preflight.md).
    flagship = effective_settings("gemma2-2b-it", {})
    assert disk.lora_parameters("gemma2_2b", flagship["training"]["lora"]) == 79_233_024


@pytest.mark.parametrize("family", families.FAMILIES.values(), ids=lambda family: family.name)
def test_the_adapters_of_each_module_that_a_family_names_are_counted(family):
    for preset in family.presets:
        for module in family.lora_modules:
            assert disk.lora_parameters(preset, {"rank": 1, "target_modules": [module]}) > 0


def test_the_flagship_takes_what_its_weights_and_checkpoints_take():
    settings = effective_settings("gemma2-2b-it", {})
    needed = disk.needed_bytes(settings)
    assert needed["weights"] == pytest.approx(4 * 2_614_341_888, rel=1e-3)
    assert needed["download"] == pytest.approx(needed["weights"] / 2)
    assert needed["checkpoint"] == 3 * 4 * 79_233_024
    assert needed["checkpoints"] == 9 * needed["checkpoint"]
    few = effective_settings("gemma2-2b-it", {"training": {"keep_checkpoints": 2}})
    assert disk.needed_bytes(few)["checkpoints"] == 3 * needed["checkpoint"]
    assert disk.needed_bytes(effective_settings("tiny", {}))["download"] == 0


def test_too_little_free_disk_is_said_with_the_way_out_and_only_for_what_is_left_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    runs, free = {"flagship": effective_settings("gemma2-2b-it", {})}, shutil.disk_usage(tmp_path)
    results = tmp_path / "results"

    def said(free_bytes):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=free_bytes))
        return disk.shortage(results, runs)

    assert said(30 * GB) is None
    sentence = said(20 * GB)
    assert "base models 9.74 GiB, downloads 4.87 GiB, checkpoints 7.97 GiB" in sentence
    assert sentence.startswith("disk: what is left to do takes some 22.58 GiB") and "18.63 GiB are free" in sentence
    assert sentence.endswith("with training.keep_checkpoints 2 it is 17.26 GiB")
    model = results / "models" / runs["flagship"]["model"]["name"]
    model.mkdir(parents=True)
    (model / "weights").mkdir()
    assert said(9 * GB) is None and "base models" not in said(8 * GB)
    (results / "flagship" / "training" / "runs").mkdir(parents=True)
    with (results / "flagship" / "training" / "runs" / "checkpoint").open("wb") as written:
        written.truncate(2 * GB)  # takes no disk
    assert said(7 * GB) is None and "checkpoints 6.11 GiB" in said(6 * GB)
    (results / "flagship" / "training" / "summary.json").touch()
    assert said(0) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who can mount a disk")
def test_a_full_disk_and_one_that_is_read_only_are_named_before_snakemake_starts(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        assert disk.unwritable([folder, tmp_path, tmp_path / "not there"]) is None
        (folder / "file").write_bytes(bytes(2**20 + 2**19))
        assert disk.unwritable([tmp_path, folder]).startswith(f"{folder}: its disk is full (512.00 KiB free)")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        assert disk.unwritable([folder]) == f"{folder}: this folder cannot be written to; make it writable"
    finally:
        subprocess.run(["umount", folder], check=True)
