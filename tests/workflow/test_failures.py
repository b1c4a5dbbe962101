"""Failed jobs and full disks: finished artifacts stay, and what failed is tried again. The workflow's style."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from workflow_copy import ROOT


def test_every_output_survives_a_failed_job_and_every_rule_runs_through_the_one_helper(snakemake, sources):
    exports = ("results/tiny/export-tunix/README.md", "results/tiny/export-gguf/model.gguf")
    targets = ("results/report.html", *exports, "results/tiny/preflight.json")
    for job in snakemake.plan(sources, *targets).values():
        assert job.log and all(name.endswith(" (update)") for name in job.output), job
    for path in (ROOT / "rules").glob("*.smk"):
        rules = re.split(r"^rule (\w+):$", path.read_text(), flags=re.MULTILINE)[1:]
        for name, body in zip(rules[::2], rules[1::2], strict=True):
            assert f'**rerun_on("{name}")' in body and re.search(rf'stage\(\s*"{name}"', body), name
            assert "\n    log:\n" in body and "\n    message:\n" in body, name


def test_a_failed_job_leaves_all_that_was_finished_alone_and_is_tried_again(snakemake, sources, tmp_path):
    folder = shutil.copytree(sources, tmp_path / "project")
    published = folder / "data" / "published"
    published.mkdir(parents=True)
    row = '{"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\\n#### 2"}\n'
    for split in ("train", "test"):
        (published / f"{split}.jsonl").write_text(row * 3)
    chosen = "dataset={name: published, source: jsonl, path: data/published, train_rows: null, test_rows: null}"
    download = ("results/data/published/dataset.json", "--config", chosen)
    status, text = snakemake(folder, "--cores", "1", *download)
    assert status == 0, text
    snakemake.finish(folder, "--config", chosen)  # everything after it too
    assert not snakemake.plan(folder, "--config", chosen)

    def artifacts():
        return {
            path: path.read_bytes()
            for path in (folder / "results").rglob("*")
            if path.suffix in (".json", ".jsonl", ".html") and "logs" not in path.parts
        }

    good = artifacts()
    (published / "test.jsonl").write_text((row * 3)[:-10])
    for _ in range(2):  # the second call fails as the first did
        status, text = snakemake(folder, "--cores", "1", "results/report.html", "--config", chosen)
        assert status == 1 and "ERROR: data/published/test.jsonl, line 3: not valid JSON" in text
        assert "Traceback" not in text
        assert artifacts() == good
    (published / "test.jsonl").write_text(row * 3)
    status, text = snakemake(folder, "--cores", "1", *download)
    assert status == 0 and "Finished jobid: 0 (Rule: download)" in text, text
    # At most the report: it shows the seconds of the download, which may be the same to the hundredth.
    assert set(snakemake.plan(folder, "--config", chosen)) <= {"report"}
    shutil.rmtree(published)
    assert set(snakemake.plan(folder, "--config", chosen)) <= {"report"}


def test_settings_that_are_longer_than_an_argument_reach_their_stage_and_a_dry_run_writes_none(
    snakemake, sources, tmp_path
):
    folder = shutil.copytree(sources, tmp_path / "project")
    system = "Think. " * 30_000 + 'it\'s "$HOME" {x} \\n'
    (folder / "long.yaml").write_text(yaml.safe_dump({"prompt": {"system": system}}))
    target = ("results/tiny/settings.yaml", "--configfile", "long.yaml")
    assert "settings tiny" in snakemake.plan(folder, *target) and not (folder / "results").exists()
    status, text = snakemake(folder, "--cores", "1", *target)
    assert status == 0, text
    assert yaml.safe_load((folder / target[0]).read_text())["prompt"]["system"] == system
    assert not snakemake.plan(folder, *target)


def test_a_job_that_failed_and_was_sent_again_with_success_is_done(snakemake, sources, tmp_path):
    folder = shutil.copytree(sources, tmp_path / "project")
    script = folder / "scripts" / "download.py"
    once = "    if not Path('once').exists():\n        Path('once').touch()\n        raise SystemExit('lost')\n"
    head, definition, body = script.read_text().partition("def main() -> None:\n")
    script.write_text(head + definition + once + body)
    target = "results/data/word-problems/dataset.json"
    status, text = snakemake(folder, "--cores", "1", "--retries", "1", target)
    assert status == 0 and "lost" in text, text
    assert not snakemake.plan(folder, target)


def test_a_job_whose_input_is_dated_in_the_future_leaves_its_outputs_alone(snakemake, project):
    """Snakemake deletes the outputs of a job that succeeds where an input is newer than they are."""
    prompts, rows = project / "results/tiny/prompts", project / "results/data/word-problems/train.jsonl"
    (project / "scripts/prompts.py").write_text(
        "from pathlib import Path\nfor path in Path('results/tiny/prompts').iterdir():\n    path.write_text('new')\n"
    )
    before = {path.name: path.read_text() for path in prompts.iterdir()}
    assert len(before) == 4
    tomorrow = time.time() + 86400
    os.utime(rows, (tomorrow, tomorrow))
    target = ("--cores", "1", "--forcerun", "prompts", "--", "results/tiny/prompts/summary.json")
    status, text = snakemake(project, *target)
    assert status == 1 and "ERROR: results/data/word-problems/train.jsonl is dated" in text, text
    assert {path.name: path.read_text() for path in prompts.iterdir()} == before
    rows.touch()
    status, text = snakemake(project, *target)
    assert status == 0 and {path.read_text() for path in prompts.iterdir()} == {"new"}, text


def test_a_stage_that_stops_itself_is_said_to_be_not_finished_and_the_same_command_goes_on(
    snakemake, sources, tmp_path
):
    folder = shutil.copytree(sources, tmp_path / "project")
    script = folder / "scripts" / "settings.py"
    stops = "    from gsm8k_grpo.common import errors, session_end\n"
    stops += "    if session_end.comes_within(session_end.session_end(None)):\n"
    stops += "        raise errors.NotFinished('1 of 2 is saved')\n"
    head, definition, body = script.read_text().partition('    """Runs the stage."""\n')
    script.write_text(head + definition + stops + body)
    command = ("--cores", "1", "results/tiny/settings.yaml", "--config")
    for _ in range(2):
        status, text = snakemake(folder, *command, "stop_after_hours=1.0e-9")
        assert status == 75 and "NOT FINISHED (stop_after_hours): 1 of 2 is saved; run the same command" in text, text
        assert "NOT FINISHED: settings-tiny stopped because the session ends" in text
    status, text = snakemake(folder, *command, "stop_after_hours=1")
    assert status == 0 and "NOT FINISHED" not in text, text
    assert not snakemake.plan(folder, "results/tiny/settings.yaml")


def test_what_the_reward_audit_warns_of_is_said_again_at_the_end(snakemake, sources, tmp_path):
    folder = shutil.copytree(sources, tmp_path / "project")
    audit = folder / "results" / "tiny" / "reward_audit.json"
    audit.parent.mkdir(parents=True)
    for warning, last in (('"a hole"', "WARNING: tiny: a hole"), ("null", None)):
        audit.write_text(f'{{"warning": {warning}}}\n')
        status, text = snakemake(folder, "--cores", "1", "--forceall", "results/tiny/settings.yaml")
        assert status == 0, text
        assert [line for line in text.splitlines() if line.startswith("WARNING: tiny")] == ([last] if last else [])


def test_the_workflow_is_in_good_style(snakemake, sources):
    status, text = snakemake(sources, "--lint")
    assert status == 0 and "Congratulations" in text, text
    command = [Path(sys.executable).with_name("snakefmt"), "--check", "Snakefile", "rules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
