"""What a stage reads of results, its rule declares: a change of anything else would not start the stage again."""

import json
import shutil
import subprocess
import sys

import pytest

from small_run import read

# Runs a script and prints, as its last line, the files that it opened.
NOTING = """
import json, os, runpy, sys
opened = set()
sys.addaudithook(lambda event, about: event == "open" and isinstance(about[0], (str, os.PathLike)) and
                 opened.add(os.path.realpath(about[0])))
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
print(json.dumps(sorted(opened)))
"""
STAGES = ("report", "tables", "plots-tiny", "transfer-tiny", "compare-tiny", "score-tiny", "best-tiny")


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    """A copy whose outputs the stages may write again."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("again") / "project", symlinks=True)


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_reads_its_rule_declares(copied, name):
    record = read(copied / f"results/records/{name}.json")
    (_, script), *options = record["made_from"]["options"].items()
    command = [script[1]]
    for option, value in options:
        words = value if isinstance(value, list) else [json.dumps(value) if option == "settings" else value]
        command += [f"--{option}", *words]
    done = subprocess.run([sys.executable, "-c", NOTING, *command], cwd=copied, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results, declared = copied / "results", {*record["made_from"]["inputs"], *record["made"]}
    read_there = {
        path.removeprefix(f"{copied}/")
        for path in json.loads(done.stdout.splitlines()[-1])
        if path.startswith(f"{results}/")
    }
    undeclared = {path for path in read_there - declared if (copied / path).is_file()}
    assert undeclared == set() and read_there & declared
