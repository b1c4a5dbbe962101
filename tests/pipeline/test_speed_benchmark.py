"""The benchmark of speed: it runs, its contestants draw the same lengths, and docs/performance.md has its table."""

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def python(root, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def measured(root, tmp_path_factory):
    """(What a quick run wrote, what it printed): ours and stock, minuscule."""
    output = tmp_path_factory.mktemp("speed") / "results.json"
    arguments = ("--quick", "--contestants", "ours", "stock", "--warm-up", "1", "--steps", "2", "--output", output)
    ran = python(root, "benchmarks/speed/run.py", *arguments, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return json.loads(output.read_text()), ran.stdout


def test_ours_and_stock_make_steps_of_the_same_lengths(measured):
    found, printed = measured
    assert list(found) == ["quick", "quick generation"]
    for name, entry in found.items():
        ours, stock = entry["contestants"]["ours"], entry["contestants"]["stock"]
        assert ours["step_tokens"] == stock["step_tokens"] and len(ours["step_tokens"]) == 2
        for each in (ours, stock):
            assert min(each["step_seconds"]) > 0 and each["compile_seconds"] > each["seconds"]
            assert 2**27 < each["peak_memory_bytes"] < 2**33
            assert list(each["phase_seconds"]) == (
                ["rollout", "reference", "update", "rest"] if name == "quick" else []
            )
            assert all(0 <= seconds <= max(each["step_seconds"]) for seconds in each["phase_seconds"].values())
    assert {len(set(found[name]["contestants"]["ours"]["step_tokens"])) for name in found} == {2, 1}  # forced by step
    assert "| quick | ours |" in printed and "| stock Tunix |" in printed


def test_a_workload_that_is_measured_again_replaces_its_entry_alone(root, measured, tmp_path):
    output = tmp_path / "results.json"
    output.write_text(json.dumps({"other": measured[0]["quick"], "quick generation": {}}))
    arguments = (
        "--quick",
        "--workloads",
        "quick generation",
        "--contestants",
        "stock",
        "--warm-up",
        "0",
        "--steps",
        "1",
    )
    ran = python(root, "benchmarks/speed/run.py", *arguments, "--output", output, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(output.read_text())
    assert found["other"] == measured[0]["quick"] and list(found["quick generation"]["contestants"]) == ["stock"]


def test_a_contestant_that_fails_ends_the_run_with_its_last_words(root, tmp_path):
    arguments = (
        "--quick",
        "--contestants",
        "trl",
        "--trl-python",
        sys.executable,
        "--output",
        tmp_path / "results.json",
    )
    ran = python(root, "benchmarks/speed/run.py", *arguments, PYTHONPATH=str(_broken(tmp_path)))
    assert ran.returncode == 1
    assert "ERROR: a contestant ended early" in ran.stderr and "ImportError: no torch here" in ran.stderr


def _broken(folder):
    (folder / "torch.py").write_text("raise ImportError('no torch here')\n")
    return folder


def test_the_page_has_the_table_of_the_measured_json(root, tmp_path):
    page = tmp_path / "performance.md"
    shutil.copy(root / "docs" / "performance.md", page)
    made = python(root, "benchmarks/speed/table.py", "benchmarks/speed/results.json", "--page", page)
    assert made.returncode == 0, made.stderr
    assert page.read_text(encoding="utf-8") == (root / "docs" / "performance.md").read_text(encoding="utf-8")
