"""Results that are copied into a fresh clone: what still fits is taken over in seconds, what does not is made again."""

import os
import re
import shutil

import pytest

from workflow_copy import ROOT, rewrite

TARGETS = ("results/tiny/settings.yaml", "results/data/word-problems/dataset.json")
LOGS = {"settings": "results/logs/tiny/settings.log", "download": "results/logs/data/word-problems/download.log"}
CHEAP = {"settings tiny", "download word-problems"}


@pytest.fixture(scope="module")
def made(snakemake, sources, tmp_path_factory):
    """The project on one machine, after two cheap stages."""
    folder = shutil.copytree(sources, tmp_path_factory.mktemp("first") / "project")
    status, text = snakemake(folder, "--cores", "1", *TARGETS)
    assert status == 0, text
    return folder


@pytest.fixture
def restored(sources, made, tmp_path):
    """A fresh clone at another path that has got results/ alone, with the times in another order."""
    folder = shutil.copytree(sources, tmp_path / "elsewhere")
    shutil.copytree(made / "results", folder / "results")
    rewrite([path for path in (folder / "results").rglob("*") if path.is_file()])
    return folder


def contents(folder):
    paths = (folder / "results").rglob("*")
    return {
        path.relative_to(folder): path.read_bytes() for path in paths if path.is_file() and "logs" not in path.parts
    }


def test_equal_results_are_taken_over_and_then_nothing_is_to_do(snakemake, made, restored):
    jobs = snakemake.plan(restored, *TARGETS)
    assert set(jobs) == CHEAP and all("their own records match" in job.reason for job in jobs.values())
    status, text = snakemake(restored, "--cores", "1", *TARGETS)
    assert status == 0 and text.count("taken over: ") == 2, text
    assert contents(restored) == contents(made)  # provenance too: it says where they were really made
    assert not snakemake.plan(restored, *TARGETS)


def test_results_of_other_settings_are_made_again_and_the_log_says_which_key_differs(snakemake, made, restored):
    changed = ("--config", "dataset={seed: 1}")
    status, text = snakemake(restored, "--cores", "1", *TARGETS, *changed)
    assert status == 0 and "taken over: " not in text, text
    log = (restored / LOGS["download"]).read_text()
    assert "options.settings.dataset.seed: 2026, now 1\n" in log
    name = "results/data/word-problems/test.jsonl"
    assert (restored / name).read_bytes() != (made / name).read_bytes()


def test_results_that_replace_others_are_not_served_because_snakemakes_notes_fit(snakemake, sources, made, tmp_path):
    """The clone has run before, with its own settings; then the results of other settings are copied over its own."""
    folder, other = shutil.copytree(made, tmp_path / "own"), shutil.copytree(sources, tmp_path / "other")
    changed = ("--config", "dataset={seed: 1}")
    status, text = snakemake(other, "--cores", "1", TARGETS[1], *changed)
    assert status == 0, text
    shutil.copytree(other / "results", folder / "results", dirs_exist_ok=True)
    assert set(snakemake.plan(folder, *TARGETS)) == {"download word-problems"}
    assert set(snakemake.plan(folder, TARGETS[1], *changed)) == {"download word-problems"}
    status, text = snakemake(folder, "--cores", "1", TARGETS[1], *changed)
    assert status == 0 and text.count("taken over: ") == 1, text


def test_damage_that_leaves_the_time_of_a_file_is_found_and_made_good(snakemake, made, tmp_path):
    """As on a failing disk."""
    folder = shutil.copytree(made, tmp_path / "damaged")
    rows = folder / "results/data/word-problems/test.jsonl"
    assert not snakemake.plan(folder, *TARGETS)
    whole, before = rows.read_bytes(), rows.stat()
    rows.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert set(snakemake.plan(folder, *TARGETS)) == {"download word-problems"}
    status, text = snakemake(folder, "--cores", "1", *TARGETS)
    assert status == 0 and "results/data/word-problems/test.jsonl changed" in text, text
    assert rows.read_bytes() == whole and not snakemake.plan(folder, *TARGETS)
    record = next((folder / "results/records").glob("download-*"))
    record.write_text("{")  # a damaged record says nothing, and stops nothing
    assert not snakemake.plan(folder, *TARGETS)


def test_what_is_forced_runs(snakemake, restored):
    status, text = snakemake(restored, "--cores", "1", *TARGETS, "--forcerun", "download")
    assert status == 0 and text.count("taken over: ") == 1, text
    assert "train: " in (restored / LOGS["download"]).read_text()


def test_each_parameter_of_a_rule_is_in_its_command_and_so_in_its_record():
    """A parameter that starts a stage again, but is not in its record, would let the stage take over what is old."""
    for path in (ROOT / "rules").glob("*.smk"):
        rules = re.split(r"^rule (\w+):$", path.read_text(), flags=re.MULTILINE)[1:]
        for name, body in zip(rules[::2], rules[1::2], strict=True):
            parameters = re.search(r"\n    params:\n(.*?)\n    \w", body, re.DOTALL)[1]
            for each in re.findall(r"^        (\w+)=", parameters, re.MULTILINE):
                assert f"{{params.{each}" in body, f"rule {name}: {each}"
