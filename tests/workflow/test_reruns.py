"""What runs again after which change, and what does not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gsm8k_grpo.data import model_files
from workflow_copy import (
    AFTER_DATA,
    AFTER_MODEL,
    AFTER_PROMPTS,
    AFTER_TRAIN,
    AUDIT,
    BASE,
    CHECK_AND_TRAIN,
    EVERYTHING,
    LATE,
    STEPS,
    append,
    rewrite,
)


def test_jax_and_the_network_would_end_these_runs(snakemake, tmp_path):
    connect = "import socket; socket.create_connection(('localhost', 9))"
    for statement, said in (("import jax", "jax is imported"), (connect, "the network is used")):
        (tmp_path / "Snakefile").write_text(f"{statement}\n")
        status, text = snakemake(tmp_path, "--dry-run")
        assert status == 1 and said in text
        done = subprocess.run(
            [sys.executable, "-c", statement], env=snakemake.environment, stderr=subprocess.PIPE, text=True
        )
        assert (done.returncode, done.stderr) == (1, f"{said}\n")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("report={examples: 4}", {"settings tiny", "tables", "report"}),
        ("evaluation={rows: 100}", {"settings tiny"} | BASE | STEPS | LATE),
        ("training={beta: 0.05}", {"settings tiny"} | CHECK_AND_TRAIN),
        ("seed=1", {"settings tiny"} | CHECK_AND_TRAIN),
        ("prompt={system: Think aloud.}", {"settings tiny"} | AFTER_PROMPTS),
        ("model={dtype: bfloat16}", {"settings tiny"} | AFTER_MODEL),
        ("dataset={seed: 1}", EVERYTHING),
    ],
    ids=lambda value: value.partition("=")[0] if isinstance(value, str) else "",
)
def test_changed_settings_rerun_their_stages_and_what_follows(snakemake, finished, change, expected):
    assert set(snakemake.plan(finished, "--config", change)) == expected


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        (["gsm8k_grpo/data/word_problems.py"], AFTER_DATA),
        (["gsm8k_grpo/data/demonstrations.py"], AFTER_MODEL),
        (["gsm8k_grpo/grpo/learner.py"], AFTER_TRAIN),
        (["gsm8k_grpo/evaluation/stats.py"], {"format_check tiny"} | BASE | STEPS | LATE),
        (
            ["compare.py", "score.py", "gsm8k_grpo/report/plots.py"],
            {"compare tiny", "score tiny", "plots tiny", "tables", "report"},
        ),
        (["reward_audit.py"], AUDIT | {"report"}),  # and no training
        (["gsm8k_grpo/report/templates/charts.js"], {"report"}),
    ],
    ids=lambda value: Path(value[0]).stem if isinstance(value, list) else "",
)
def test_edited_code_reruns_the_stages_that_use_it_and_what_follows(snakemake, project, edited, expected):
    for name in edited:
        append(project / "scripts" / name, "\nEDITED = True\n")
    jobs = snakemake.plan(project)
    assert set(jobs) == expected
    (first,) = [job for job in jobs.values() if "Code has changed" in job.reason or "and its modules" in job.reason][:1]
    script = first.name.split()[0]
    assert first.reason.count(f"scripts/{script}.py and its modules") == 2  # before and now


def test_an_edited_reward_of_ones_own_reruns_training_and_what_follows_and_no_other_recipe(snakemake, project):
    settings = yaml.safe_load((project / "recipes" / "tiny.yaml").read_text())
    settings["training"]["rewards"] = ["answer", "more/mine.py:brief"]
    (project / "recipes" / "own.yaml").write_text(yaml.safe_dump(settings))
    mine = project / "more" / "mine.py"
    mine.parent.mkdir()
    mine.write_text("def brief(prompts, completions, answers):\n    raise SystemExit('run')\n")
    both = ("--config", "recipes=[tiny,own]")
    snakemake.finish(project, *both)
    rewrite([mine])
    assert not snakemake.plan(project, *both)
    append(mine, "# another\n")
    jobs = snakemake.plan(project, *both)
    assert set(jobs) == {name.replace("tiny", "own") for name in AFTER_TRAIN | AUDIT} | {"compare_recipes"}
    assert jobs["train own"].reason == "Updated input files: more/mine.py"


def test_another_length_of_the_session_reruns_nothing(snakemake, project):
    assert not snakemake.plan(project, "--config", "stop_after_hours=8.5")
    text = (project / "config.yaml").read_text()
    (project / "config.yaml").write_text(text.replace("stop_after_hours: null", "stop_after_hours: 8.5"))
    assert not snakemake.plan(project)


def test_comments_docstrings_and_rewritten_files_rerun_nothing(snakemake, project):
    append(project / "config.yaml", "# a comment\n")
    append(project / "recipes" / "tiny.yaml", "# a comment\n")
    for path in (project / "Snakefile", *(project / "rules").iterdir(), *(project / "scripts").rglob("*.py")):
        append(path, "\n# A comment.\n")
    errors = project / "scripts" / "gsm8k_grpo" / "common" / "errors.py"
    errors.write_text(errors.read_text().replace('"""', '"""Another docstring. ', 1))
    rewrite([path for path in project.rglob("*") if path.is_file() and ".snakemake" not in path.parts])
    assert not snakemake.plan(project)
    # Only the contents say so: by time alone, everything is out of date.
    by_time = set(snakemake.plan(project, "--max-checksum-file-size", "0"))
    assert by_time == EVERYTHING - {"settings tiny", "download word-problems"}  # these have no inputs


def test_published_files_rerun_everything_when_their_contents_change_and_only_then(snakemake, project):
    published = [project / "data" / "published" / f"{split}.jsonl" for split in ("train", "test")]
    published[0].parent.mkdir(parents=True)
    for path in published:
        path.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    chosen = ("--config", "dataset={name: published, source: jsonl, path: data/published}")
    snakemake.finish(project, *chosen)
    rewrite(published)
    assert not snakemake.plan(project, *chosen)
    append(published[1], '{"question": "1 + 2?", "answer": "#### 3"}\n')
    expected = AFTER_DATA - {"download word-problems"} | {"download published"}
    assert set(snakemake.plan(project, *chosen)) == expected


def test_gsm8k_from_a_hub_needs_no_network_to_plan_and_from_tensorflow_datasets_a_stage_of_its_own(snakemake, project):
    chosen = "dataset={{name: gsm8k, source: {}, train_rows: null, test_rows: null}}"
    for source in ("huggingface", "tfds"):
        jobs = set(snakemake.plan(project, "--config", chosen.format(source)))
        first = {"tfds_rows gsm8k"} if source == "tfds" else set()
        assert jobs == EVERYTHING - {"download word-problems"} | {"download gsm8k"} | first
    snakemake.finish(project, "--config", chosen.format("tfds"))
    assert not snakemake.plan(project, "--config", chosen.format("tfds"))
    append(project / "scripts" / "tfds_rows.py", "\nEDITED = True\n")
    jobs = set(snakemake.plan(project, "--config", chosen.format("tfds")))
    assert jobs == AFTER_DATA - {"download word-problems"} | {"download gsm8k", "tfds_rows gsm8k"}


def test_a_local_model_reruns_what_follows_when_its_files_change_and_only_then(snakemake, project, tmp_path):
    folder = tmp_path / "gemma"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    chosen = ("--config", f"model={{name: mine, source: local, path: {folder}, handle: null, pretraining: null}}")
    (project / "results" / "models" / "mine").mkdir(parents=True)
    origin = {"source": "local", "path": str(folder), "files": model_files.local_hashes(folder)}
    (project / "results" / "models" / "mine" / "model.json").write_text(json.dumps({"origin": origin}))
    snakemake.finish(project, *chosen)
    rewrite(folder.iterdir())
    assert not snakemake.plan(project, *chosen)
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert set(snakemake.plan(project, *chosen)) == AFTER_MODEL - {"base_model tiny"} | {"base_model mine"}
    shutil.rmtree(folder)
    assert not snakemake.plan(project, *chosen)


def test_a_second_recipe_shares_data_and_model_and_leaves_the_first_alone(snakemake, project):
    settings = yaml.safe_load((project / "recipes" / "tiny.yaml").read_text())
    settings["training"]["beta"] = 0.0
    (project / "recipes" / "second.yaml").write_text(yaml.safe_dump(settings))
    own = {name.replace("tiny", "second") for name in AFTER_PROMPTS} | {"settings second", "compare_recipes"}
    jobs = set(snakemake.plan(project, "--config", "recipes=[tiny,second]"))
    assert jobs - {"settings tiny"} == own  # settings.yaml also says which recipes were chosen
    assert set(snakemake.plan(project, "--forceall", "--config", "recipes=[tiny,second]")) == own | EVERYTHING


def test_another_seed_trains_that_seed_alone(snakemake, project):
    snakemake.finish(project, "--config", "seeds=[0]")
    jobs = set(snakemake.plan(project, "--config", "seeds=[0,1]"))
    new = {name.replace("tiny", "tiny-seed-1") for name in AFTER_PROMPTS} | {"settings tiny-seed-1"}
    # Of seed 0, the list of settings alone is written again.
    assert jobs == new | {"settings tiny-seed-0", "over_seeds tiny", "compare_recipes"}


def test_a_variant_with_a_name_leaves_its_recipe_alone(snakemake, project):
    jobs = snakemake.plan(project, "--config", "seed=1", "name=tiny-one")
    assert set(jobs) == {name.replace("tiny", "tiny-one") for name in AFTER_PROMPTS} | {"settings tiny-one"}
    written = {path for job in jobs.values() for path in job.output}
    assert not [path for path in written if path.startswith("results/tiny/")]


def test_a_preflight_is_no_input_of_the_report_but_another_one_makes_it_anew(snakemake, project):
    made = project / "results" / "tiny" / "preflight.json"
    made.write_text("{}\n")
    assert set(snakemake.plan(project)) == {"report"}
    snakemake.finish(project)
    assert not snakemake.plan(project)
    made.unlink()
    assert set(snakemake.plan(project)) == {"report"}


def test_a_preflight_needs_nothing_else_and_nothing_waits_for_it(snakemake, finished):
    target = "results/tiny/preflight.json"
    assert set(snakemake.plan(finished, target)) == {"preflight tiny"}
    jobs = snakemake.plan(finished, "--config", "preflight={accelerator: v6e-8}")
    assert set(jobs) == {"settings tiny", "tables", "report"}  # they read all settings


def test_each_export_is_a_target_of_its_own(snakemake, finished):
    assert set(snakemake.plan(finished, "results/tiny/export/README.md")) == {"export tiny"}
    dev = ("--config", "evaluation={split: dev}")
    jobs = snakemake.plan(finished, "results/tiny/export/export.json", *dev)
    assert "results/tiny/prompts/dev.jsonl" in jobs["export tiny"].input
    jobs = snakemake.plan(finished, "results/tiny/export-tunix/README.md")
    assert set(jobs) == {"export tiny", "export_tunix tiny"}
    jobs = snakemake.plan(finished, "results/tiny/export-gguf/model.gguf")
    assert set(jobs) == {"export tiny", "export_gguf tiny"}
