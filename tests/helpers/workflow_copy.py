"""Snakemake on a copy of the project: dry runs as data, and finished states without running a stage.

The finished state is a file for each declared output and what Snakemake records of it when it touches it: the same
parameters, inputs and checksums as after a real job. Snakemake is imported once, in a server that forks for each call.
No call may import JAX or use the network.
"""

import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SOURCES = ("Snakefile", "config.yaml", "rules", "profiles", "recipes", "schemas", "scripts", "envs")
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
FORBIDDEN = ("jax", "flax", "optax", "orbax", "qwix", "tunix", "kagglehub", "huggingface_hub", "tensorflow_datasets")
OFFLINE = """
import socket

def refuse(*arguments, **options):
    raise SystemExit("the network is used")

socket.socket.connect = socket.getaddrinfo = refuse
"""
# What reruns after which change, by the names of `Job`.
AUDIT = {"reward_audit tiny"}
BASE = {"evaluate tiny evaluations base", "evaluate tiny evaluations-dev base"} | AUDIT
STEPS = {f"evaluate tiny evaluations-dev {checkpoint}" for checkpoint in ("step-2", "step-4", "final")}
STEPS |= {"evaluate tiny evaluations final"}
CHOICE = {"best tiny", "evaluate tiny evaluations best"}
LATE = CHOICE | {"compare tiny", "score tiny", "plots tiny", "tables", "report"}
AFTER_TRAIN = {"train tiny"} | STEPS | LATE
CHECK_AND_TRAIN = {"format_check tiny"} | AUDIT | AFTER_TRAIN
AFTER_PROMPTS = {"prompts tiny"} | BASE | CHECK_AND_TRAIN
AFTER_MODEL = {"base_model tiny"} | AFTER_PROMPTS
AFTER_DATA = {"download word-problems"} | AFTER_MODEL
EVERYTHING = {"settings tiny"} | AFTER_DATA

# What loading the workflow imports.
LIBRARIES = ("docutils.nodes", "numpy", "pandas", "pydantic", "requests", "smart_open", "snakemake.report", "yte")
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["snakemake.cli", "snakemake.executors.touch", *LIBRARIES])


@dataclass(frozen=True)
class Job:
    """A job of a dry run: its name here (`evaluate tiny evaluations base`), files, reason and resources."""

    name: str
    input: list[str]
    output: list[str]
    log: list[str]
    reason: str
    resources: dict


class Snakemake:
    """Calls Snakemake in a folder."""

    def __init__(self, folder: Path):
        """Puts what ends a process that imports JAX or uses the network into `folder`."""
        for name in FORBIDDEN:
            (folder / f"{name}.py").write_text(f"raise SystemExit('{name} is imported')\n")
        (folder / "sitecustomize.py").write_text(OFFLINE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SNAKEMAKE_", "PYTHON"))}
        path = f"{folder}{os.pathsep}{ROOT / 'tests' / 'helpers'}"
        self.environment = {**kept, "PYTHONPATH": path}

    def __call__(self, folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        """Returns (exit status, all that it printed)."""
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as printed:
            process = _forks.Process(
                target=_call, args=(str(folder), arguments, self.environment | environment, printed.name)
            )
            process.start()
            process.join(300)
            return process.exitcode, printed.read()

    def plan(self, folder: Path, *arguments: str) -> dict[str, Job]:
        """The jobs that a run would have, by name; `all` is left out."""
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, "plan")
            file.touch()
            status, text = self(folder, "--logger", "plan", "--dry-run", *arguments, PLAN=str(file))
            assert status == 0, text
            found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        total = re.search(r"^total +(\d+)$", text, re.MULTILINE)
        assert len(found) == (int(total[1]) if total else 0) and bool(found) != ("Nothing to be done" in text), text
        jobs = {}
        for each in found:
            name = " ".join([each.pop("rule_name"), *each.pop("wildcards").values()])
            jobs[name] = Job(name, **each)
        jobs.pop("all", None)
        return jobs

    def finish(self, folder: Path, *arguments: str) -> Path:
        """Makes a file for every output that is missing and has Snakemake record all as made now."""
        status, text = self(folder, "--summary", *arguments)
        assert status == 0, text
        for name in re.findall(r"^(results/\S+)\t", text, re.MULTILINE):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(f"{name}\n" * (60_000 if path.name == "train.jsonl" else 1))  # some are over 1 MB
        status, text = self(folder, "--touch", "--forceall", "--cores", "1", *arguments)
        assert status == 0, text
        return folder


def _call(folder: str, arguments: tuple[str, ...], environment: dict[str, str], printed: str) -> None:
    """In a process of its own."""
    import snakemake.cli
    from snakemake.executors import touch

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    exec(OFFLINE, {})
    touch.Executor.SLEEPING_TIME = 0  # between jobs of `--touch`; contents are compared, not times
    file = os.open(printed, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["snakemake", *arguments]
    snakemake.cli.main(list(arguments))


def copy_sources(folder: Path) -> Path:
    """The project without results; `tiny` has checkpoints step-2, step-4 and final whatever its own numbers are."""
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    recipe = folder / "recipes" / "tiny.yaml"
    settings = yaml.safe_load(recipe.read_text())
    settings["training"] |= {"max_steps": 6, "checkpoint_interval_steps": 2}
    recipe.write_text(yaml.safe_dump(settings))
    return folder


def append(path: Path, text: str) -> None:
    """Adds to a text file."""
    path.write_text(path.read_text() + text)


def rewrite(files: list[Path]) -> None:
    """Writes the same bytes anew, as git does, and turns the order of time round: what was made first is now newest."""
    now = time.time()
    for age, path in enumerate(sorted(files, key=lambda path: path.stat().st_mtime_ns)):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, (now - age, now - age))
