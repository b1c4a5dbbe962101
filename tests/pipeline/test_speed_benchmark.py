"""The benchmark of speed: it runs, its contestants draw the same lengths, and docs/performance.md has its table."""

import importlib.util
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
    ran = python(root, "benchmarks/speed/run.py", *arguments)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return json.loads(output.read_text()), ran.stdout


def test_ours_and_stock_make_steps_of_the_same_lengths(root, measured):
    found, printed = measured
    assert list(found) == ["quick", "quick generation", "quick W3", "quick answers"]
    for name, entry in found.items():
        ours, stock = (entry["contestants"][each] for each in (_ours(name), "stock"))
        assert ours["step_tokens"] == stock["step_tokens"] and len(ours["step_tokens"]) == 2
        for each in (ours, stock):
            assert min(each["step_seconds"]) > 0 and each["compile_seconds"] > each["seconds"]
            assert 2**27 < each["peak_memory_bytes"] < 2**33
            assert list(each["phase_seconds"]) == (
                ["rollout", "reference", "update", "rest"] if name in ("quick", "quick W3") else []
            )
            assert all(0 <= seconds <= max(each["step_seconds"]) for seconds in each["phase_seconds"].values())
    tokens = {name: entry["contestants"]["stock"]["step_tokens"] for name, entry in found.items()}
    assert set(tokens["quick generation"]) == {4 * 16}
    forced = {each.name: [each.lengths(step) for step in (1, 2)] for each in _workloads(root).QUICK}
    for name in ("quick", "quick W3"):
        assert tokens[name] == [sum(lengths) for lengths in forced[name]] and forced[name][0] != forced[name][1]
    measured = json.loads((root / "benchmarks" / "speed" / "w3-lengths.json").read_text())["steps"]
    assert forced["quick W3"][0] == [min(length, 32) for length in measured[1][:8]]
    assert "| quick | ours |" in printed and "| stock Tunix |" in printed


def _workloads(root):
    spec = importlib.util.spec_from_file_location("workloads", root / "benchmarks" / "speed" / "workloads.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _ours(workload):
    return "ours" if workload in ("quick", "quick generation") else "ours float32"


def test_answers_have_a_share_of_the_machine_s_limit(measured):
    found, printed = measured
    entry = found["quick answers"]
    assert entry["prompt_tokens"] == 4 * 8 and entry["output_parameters"] == 64 * 32
    assert all(value > 0 for library in entry["machine"].values() for value in library.values())
    assert entry["contestants"]["stock"]["rows"] == 4 and entry["contestants"]["stock"]["step_completions"] == [4, 4]
    assert "GFLOP/s in float32" in printed and "| share of the limit |" in printed


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
    ran = python(root, "benchmarks/speed/run.py", *arguments, "--output", output)
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


def test_a_contestant_that_the_kernel_kills_is_reported(root, tmp_path):
    output = tmp_path / "results.json"
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    arguments = ("--quick", "--workloads", "quick W3", "--contestants", "trl", "--trl-python", sys.executable)
    ran = python(root, "benchmarks/speed/run.py", *arguments, "--output", output, PYTHONPATH=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    (each,) = json.loads(output.read_text())["quick W3"]["contestants"].values()
    assert each["killed"] is True and 2**22 < each["peak_memory_bytes"] < 2**30
    assert "| quick W3 | TRL bfloat16 checkpointing | killed: out of memory |" in ran.stdout


@pytest.mark.parametrize(
    ("library", "contestant", "workloads"),
    [("torch", "trl", ("quick W3", "quick answers")), ("llama_cpp", "llama.cpp", ("quick answers",))],
)
def test_contestants_of_the_other_environment(root, tmp_path, library, contestant, workloads):
    there = root / ".venv-benchmarks" / "bin" / "python"
    if not there.exists() or subprocess.run([there, "-c", f"import {library}"], capture_output=True).returncode:
        pytest.skip(f"{there} has no {library}: make setup-benchmarks")
    output = tmp_path / "results.json"
    arguments = ("--quick", "--contestants", contestant, "--warm-up", "1", "--steps", "1", "--output", output)
    ran = python(root, "benchmarks/speed/run.py", *arguments, "--workloads", *workloads)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(output.read_text())
    assert list(found) == list(workloads)
    for name, entry in found.items():
        (each,) = entry["contestants"].values()
        assert each["step_completions"] == [8 if name == "quick W3" else 4] and 0 < each["seconds"] < 60
    assert each["rows"] == 2 and each["weight_bytes"] > 0 and set(entry["machine"]) == {"jax", "torch"}


def test_the_page_has_the_table_of_the_measured_json(root, tmp_path):
    page = tmp_path / "performance.md"
    shutil.copy(root / "docs" / "performance.md", page)
    made = python(root, "benchmarks/speed/table.py", "benchmarks/speed/results.json", "--page", page)
    assert made.returncode == 0, made.stderr
    assert page.read_text(encoding="utf-8") == (root / "docs" / "performance.md").read_text(encoding="utf-8")
