"""The notebooks: as their source gives them, and executed from the first cell to the last on a small miniature.

Played are the service's folders, environment variables, modules and data sets. The kernel has a Python of its own
(`make setup-tools`), as on a service, and each `!` line is a shell. Set-up finds the packages there already; but on
Colab it installs them for Python 3.12, beside a JAX of the service's own, where this machine has that Python.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from gsm8k_grpo.common.layout import ROOT
from loopback_hubs import KAGGLE_KEY, Hubs
from small_run import SMALLEST

SERVICES = ("kaggle_tpu", "colab")
EXECUTE = ROOT / ".venv-tools" / "bin" / "jupyter-execute"
SMALL = {
    **SMALLEST,
    "training": {**SMALLEST["training"], "checkpoint_interval_steps": 4},
    "evaluation": {"batch_size": 8, "selection_rows": 8, "rows": 8},
    "preflight": {"accelerator": "t4-16gb"},  # needs no TPU's compiler
}
# What variables of services could do to our environment: Colab's plots, and its uv.
OF_THE_SERVICE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "UV_SYSTEM_PYTHON": "true"}


def test_the_notebooks_are_what_their_source_gives():
    done = subprocess.run([sys.executable, "notebooks/build.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_notebook_is_short_and_has_no_outputs(service):
    cells = nbformat.read(ROOT / "notebooks" / f"{service}.ipynb", as_version=4).cells
    assert len(cells) <= 15
    assert not any(cell.outputs or cell.execution_count for cell in cells if cell.cell_type == "code")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The project as it stands, as a repository to clone."""
    folder = tmp_path_factory.mktemp("repository") / "project"
    ignored = shutil.ignore_patterns(".git", ".venv*", ".snakemake", "results", "site", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=ignored)
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "as it stands"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def session(repository, tmp_path):
    """Runs a notebook in a session on a machine of its own; returns what its cells printed and displayed."""

    def run(service, name, variables=(), python=None, **settings):
        machine = tmp_path / name
        machine.mkdir()
        notebook = nbformat.read(ROOT / "notebooks" / f"{service}.ipynb", as_version=4)
        chosen = {
            "REPOSITORY": str(repository),
            "WORK": str(machine / "clone"),
            "PLATFORM": "cpu",
            "RECIPE": "tiny",
            "OPTIONS": " ".join(f"'{block}={json.dumps(values)}'" for block, values in SMALL.items()),
            **settings,
        }
        injected = nbformat.v4.new_code_cell("\n".join(f"{key} = {value!r}" for key, value in chosen.items()))
        settings_cell = next(index for index, cell in enumerate(notebook.cells) if cell.metadata.get("tags"))
        notebook.cells.insert(settings_cell + 1, injected)
        nbformat.write(notebook, machine / "notebook.ipynb")
        environment = {**os.environ, **OF_THE_SERVICE, **dict(variables)}
        if python is None:
            environment["GIT_TEMPLATE_DIR"] = str(_packages_are_there(machine))
        else:
            environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
        environment["PYTHONPATH"] = str(ROOT / "tests" / "helpers" / "notebook_services" / service)
        command = [EXECUTE, "--timeout=900", "--output=executed", "notebook.ipynb"]
        done = subprocess.run(command, cwd=machine, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        cells = nbformat.read(machine / "executed.ipynb", as_version=4).cells
        outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
        return "\n".join(output.get("text") or "".join(map(str, output.get("data", {}).values())) for output in outputs)

    if not EXECUTE.exists():
        pytest.skip("needs make setup-tools")
    return run


def _packages_are_there(machine):
    """A template of git whose hook links this environment into a fresh clone, so that set-up installs nothing."""
    hook = machine / "template" / "hooks" / "post-checkout"
    hook.parent.mkdir(parents=True)
    links = " && ".join(f"ln -s {Path(sys.prefix, name)} .venv/" for name in ("bin", "lib", "pyvenv.cfg"))
    hook.write_text(f"#!/bin/sh\nmkdir .venv && {links} && touch .venv/.ready-cpu\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    return machine / "template"


@pytest.fixture
def colabs_python(tmp_path):
    """Python 3.12 with a JAX that is not ours; None where this machine has no such Python."""
    candidates = ["python3.12", *map(str, (Path.home() / ".pyenv/versions").glob("3.12.*/bin/python3.12"))]
    found = (name for name in candidates if shutil.which(name) and subprocess.run([name, "-c", ""]).returncode == 0)
    if (python := next(found, None)) is None:
        return None
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "colab"], check=True)
    (packages,) = (tmp_path / "colab").glob("lib/python*/site-packages")
    (packages / "jax.py").write_text("raise ImportError('the JAX of the service, not of the environment')\n")
    return tmp_path / "colab/bin/python3"


def assert_finished(printed):
    assert "<iframe srcdoc=" in printed and "Showing its work" in printed
    assert "base model" in printed and "tokens; " in printed  # both models answered


@pytest.fixture
def hubs(tmp_path):
    """Kaggle itself, as far as the notebook talks to it."""
    (tmp_path / "hubs").mkdir()
    made = Hubs(tmp_path / "hubs")
    yield made
    made.close()


@pytest.mark.slow
def test_kaggles_notebook_stops_before_the_session_ends_and_the_next_session_finishes(session, hubs, tmp_path):
    variables = hubs.environment(PLAYED_KAGGLE_API_TOKEN=KAGGLE_KEY)
    folders = {"INPUT": str(tmp_path / "input"), "DATASET": "someone/kept"}

    def run(name, **settings):
        printed = session("kaggle_tpu", name, variables, OUTPUT=str(tmp_path / name / "working"), **folders, **settings)
        assert KAGGLE_KEY not in printed
        return printed

    printed = run("first", SESSION_HOURS=0.0001)
    assert "HF_TOKEN is not set: No user secrets exist" in printed and "KAGGLE_API_TOKEN is not" not in printed
    assert "sessions: tiny: training takes 1 session of 0.0001 hours (" in printed  # by the preflight
    assert "sessions: tiny: training takes 1 more session of " in printed  # after a saved step
    assert "NOT FINISHED: train-tiny stopped" in printed and "The run is not finished" in printed
    kept = hubs.kaggle["dataset/someone/kept"].files
    assert list(kept) == ["tiny.carry"]
    # The service mounts the data set as an input of the second session.
    (tmp_path / "input/kept").mkdir(parents=True)
    (tmp_path / "input/kept/tiny.carry").write_bytes(kept["tiny.carry"])
    printed = run("second")
    assert "files are restored" in printed and "taken over: results/models/tiny/" in printed
    assert_finished(printed)
    assert sorted(hubs.kaggle["dataset/someone/kept"].files) == ["report.html", "tiny.carry"]


@pytest.mark.slow
def test_colabs_notebook_runs_to_the_end_and_keeps_the_results_on_the_drive(session, colabs_python, tmp_path):
    drive = tmp_path / "drive"
    kept = drive / "MyDrive/showing-its-work"
    printed = session("colab", "only", python=colabs_python, DRIVE=str(drive), INPUT=str(kept), OUTPUT=str(kept))
    if colabs_python:
        assert list(tmp_path.glob("only/clone/.venv/lib/python3.12/site-packages/jax/__init__.py"))
    assert "HF_TOKEN is not set: Secret HF_TOKEN does not exist" in printed
    assert_finished(printed)
    assert sorted(path.name for path in kept.iterdir()) == ["report.html", "tiny.carry"]


@pytest.mark.slow
def test_what_cannot_be_restored_stops_the_notebook_before_it_is_replaced(session, tmp_path):
    drive = tmp_path / "drive"
    kept = drive / "MyDrive/showing-its-work"
    kept.mkdir(parents=True)
    (kept / "tiny.carry").write_bytes(b"torn")
    with pytest.raises(AssertionError, match="nothing was restored: the lines above say why"):
        session("colab", "torn", DRIVE=str(drive), INPUT=str(kept), OUTPUT=str(kept))
    assert (kept / "tiny.carry").read_bytes() == b"torn"
