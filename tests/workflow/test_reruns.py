"""The workflow: what reruns after which change, dry runs of all recipes, faults of configuration, failed jobs, style.

Only `download` really runs. Elsewhere the finished state is a file for each declared output and what Snakemake records
of it when it touches it: the same parameters, inputs and checksums as after a real job. No run here may import JAX or
use the network.
"""

import collections
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gsm8k_grpo.data import model_files

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
# What one job prints in a dry run, and how such a job is called here: `evaluate tiny base`.
JOB = re.compile(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)+)", re.MULTILINE)

BASE = {"evaluate tiny evaluations base", "evaluate tiny evaluations-dev base"}
STEPS = {f"evaluate tiny evaluations-dev {checkpoint}" for checkpoint in ("step-2", "step-4", "final")}
STEPS |= {"evaluate tiny evaluations final"}
CHOICE = {"best tiny", "evaluate tiny evaluations best"}
LATE = CHOICE | {"compare tiny", "score tiny", "plots tiny", "report"}
AFTER_TRAIN = {"train tiny"} | STEPS | LATE
CHECK_AND_TRAIN = {"format_check tiny"} | AFTER_TRAIN
AFTER_PROMPTS = {"prompts tiny"} | BASE | CHECK_AND_TRAIN
AFTER_MODEL = {"base_model tiny"} | AFTER_PROMPTS
AFTER_DATA = {"download word-problems"} | AFTER_MODEL
EVERYTHING = {"settings tiny"} | AFTER_DATA


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
        ("report={examples: 4}", {"settings tiny", "report"}),
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
        (["compare.py"], {"compare tiny", "report"}),
        (["score.py"], {"score tiny", "report"}),
        (["gsm8k_grpo/report/plots.py"], {"plots tiny", "report"}),
        (["gsm8k_grpo/report/page.py"], {"report"}),
        (["gsm8k_grpo/report/templates/report.js"], {"report"}),
        (["gsm8k_grpo/report/templates/vendor/uPlot.min.js"], {"report"}),
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
    assert not snakemake.plan(project, *both)
    rewrite([mine])
    assert not snakemake.plan(project, *both)
    append(mine, "# another\n")
    jobs = snakemake.plan(project, *both)
    assert set(jobs) == {name.replace("tiny", "own") for name in AFTER_TRAIN} | {"compare_recipes"}
    assert jobs["train own"].reason == "Updated input files: more/mine.py"


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
    assert set(snakemake.plan(project, "--max-checksum-file-size", "0")) == EVERYTHING


def test_published_files_rerun_everything_when_their_contents_change_and_only_then(snakemake, project):
    published = [project / "data" / "published" / f"{split}.jsonl" for split in ("train", "test")]
    published[0].parent.mkdir(parents=True)
    for path in published:
        path.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    chosen = ("--config", "dataset={name: published, source: jsonl, path: data/published}")
    snakemake.finish(project, *chosen)
    assert not snakemake.plan(project, *chosen)
    rewrite(published)
    assert not snakemake.plan(project, *chosen)
    append(published[1], '{"question": "1 + 2?", "answer": "#### 3"}\n')
    expected = AFTER_DATA - {"download word-problems"} | {"download published"}
    assert set(snakemake.plan(project, *chosen)) == expected


def test_gsm8k_from_a_hub_needs_no_network_to_plan_and_from_tensorflow_datasets_a_stage_of_its_own(snakemake, project):
    chosen = "dataset={{name: gsm8k, source: {}, train_rows: null, test_rows: null}}"
    for source in ("huggingface", "kaggle", "tfds"):
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
    assert not snakemake.plan(project, *chosen)
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


def test_on_dev_alone_each_checkpoint_is_evaluated_once_and_test_is_not_read(snakemake, sources):
    jobs = snakemake.plan(sources, "--config", "evaluation={split: dev}")
    names = ("base", "step-2", "step-4", "final", "best")
    assert {job for job in jobs if job.startswith("evaluate")} == {
        f"evaluate tiny evaluations {name}" for name in names
    }
    assert not [job for job, about in jobs.items() if job.startswith("evaluate") and "test.jsonl" in str(about.input)]


def test_miniatures_that_are_pretrained_alike_share_one_pretraining(snakemake, sources):
    recipes = [recipe for recipe in RECIPES if recipe != "tiny-gsm8k"]
    jobs = snakemake.plan(sources, "--config", "recipes=[tiny,gemma2-2b-it,gemma2-2b-reasoning]", "miniature=true")
    for recipe in ("gemma2-2b-it", "gemma2-2b-reasoning"):
        assert "results/models/tiny/model.json" in jobs[f"base_model {recipe}-miniature"].input
    jobs = snakemake.plan(sources, "--config", f"recipes=[{','.join(sorted(recipes))}]", "miniature=true")
    takes_over = {job for job, about in jobs.items() if "base_model" in job and "results/models/" in str(about.input)}
    # Of each way to pretrain (three families, and Gemma 3 in two kinds of tags), the first recipe pretrains.
    assert takes_over == {
        f"base_model {name}" for name in ("gemma2-2b-reasoning-miniature", "minigrpo-slow-miniature", "tiny")
    }


def test_several_seeds_are_runs_of_one_dag_that_share_data_and_model(snakemake, finished):
    jobs = set(snakemake.plan(finished, "--config", "seeds=[0,1]"))
    runs = {name.replace("tiny", f"tiny-seed-{seed}") for name in AFTER_PROMPTS for seed in (0, 1)}
    assert jobs == runs | {"settings tiny-seed-0", "settings tiny-seed-1", "over_seeds tiny", "compare_recipes"}


def test_a_sweep_is_one_dag_with_one_download_one_base_evaluation_and_one_report(snakemake, sources):
    settings = yaml.safe_load((sources / "recipes" / "tiny.yaml").read_text())
    settings["training"]["beta"] = 0.0
    second = sources / "recipes" / "second.yaml"
    second.write_text(yaml.safe_dump(settings))
    try:
        jobs = snakemake.plan(sources, "--config", "recipes=[tiny,second]", "seeds=[0,1,2]")
    finally:
        second.unlink()
    counts = collections.Counter(name.split()[0] for name in jobs)
    assert counts["download"] == counts["base_model"] == counts["compare_recipes"] == counts["report"] == 1
    assert counts["train"] == 6 and counts["over_seeds"] == 2
    runs = [f"{recipe}-seed-{seed}" for recipe in ("tiny", "second") for seed in (0, 1, 2)]
    for folder in ("evaluations", "evaluations-dev"):
        # The first is computed; the others take its rows over.
        first = f"results/tiny-seed-0/{folder}/base/metrics.json"
        taken = [first in jobs[f"evaluate {run} {folder} base"].input for run in runs]
        assert taken == [False, True, True, True, True, True]
    shown = jobs["report"].input
    assert {"results/comparison-of-recipes.json", "results/tiny/seeds.json", "results/second/seeds.json"} <= set(shown)
    assert {f"results/{run}/comparison.json" for run in runs} <= set(shown)


@pytest.mark.parametrize(("profile", "plugin"), [("slurm", "slurm"), ("kubernetes", "cluster_generic")])
def test_stages_with_a_model_ask_a_cluster_for_an_accelerator(snakemake, sources, profile, plugin):
    if importlib.util.find_spec(f"snakemake_executor_plugin_{plugin}") is None:
        pytest.skip("needs `make setup-cluster`")
    arguments = ("--workflow-profile", f"profiles/{profile}", "--config", "seeds=[0,1]", "platform=cuda")
    status, text = snakemake(sources, "--dry-run", *arguments)
    assert status == 0, text
    jobs = dict(JOB.findall(text))
    for rule in ("base_model", "format_check", "train", "evaluate"):
        asked = dict(each.split("=") for each in re.search(r"resources: (.*)", jobs[rule])[1].split(", "))
        assert asked["gres"] == "gpu:1" and int(asked["mem_mb"]) > 4000


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
    assert set(jobs) == {"settings tiny", "report"}  # they show all settings


def test_the_export_is_a_target_of_its_own(snakemake, finished):
    assert set(snakemake.plan(finished, "results/tiny/export/README.md")) == {"export tiny"}
    dev = ("--config", "evaluation={split: dev}")
    jobs = snakemake.plan(finished, "results/tiny/export/export.json", *dev)
    assert "results/tiny/prompts/dev.jsonl" in jobs["export tiny"].input


@pytest.mark.parametrize("size", ["", "-miniature"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_dry_run(snakemake, sources, recipe, size):
    if size and recipe.startswith("tiny"):
        pytest.skip("is one already")
    chosen = (f"recipes={recipe}", f"miniature={bool(size)}")
    recipe += size
    jobs = list(snakemake.plan(sources, "--config", *chosen))
    evaluated = {f"evaluate {recipe} {name}" for name in ("evaluations base", "evaluations final", "evaluations best")}
    assert {f"train {recipe}", f"evaluate {recipe} evaluations-dev base", "report"} | evaluated < set(jobs)
    # Test is read for no other checkpoint.
    assert {job for job in jobs if " evaluations " in job} == evaluated
    assert sorted(job.split()[0] for job in jobs if job.startswith(("download", "base"))) == ["base_model", "download"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("trainig={beta: 0.05}", "recipe tiny: trainig: unknown key; there are recipes, miniature,"),
        ("training={bata: 0.05}", "recipe tiny: training.bata: unknown key; there are max_steps,"),
        ("training={learning_rate: 1e-6}", "recipe tiny: training.learning_rate: '1e-6' is text, expected a number"),
        ("training={num_generations: 1}", "recipe tiny: training.num_generations: 1 is less than the minimum of 2"),
        ("training={micro_batch_prompts: 7}", "recipe tiny: training.micro_batch_prompts: 7 does not divide"),
        ("training={checkpoint_interval_steps: 7}", "recipe tiny: training.checkpoint_interval_steps: 7 lies beyond"),
        ("training={rewards: [mine.py:f]}", "recipe tiny: training.rewards: mine.py"),
        ("recipes=gemma", "recipes: there is no recipe 'gemma'; there are "),
    ],
    ids=lambda value: value.split(":")[0],
)
def test_a_fault_of_configuration_ends_the_dry_run_with_one_sentence(snakemake, sources, change, sentence):
    status, text = snakemake(sources, "--dry-run", "--config", change)
    assert status == 1 and "Traceback" not in text
    assert [line.startswith(sentence) for line in text.splitlines() if sentence.split(":")[-2] in line] == [True], text


def test_the_values_of_config_on_the_command_line_are_typed_as_in_files(snakemake, finished):
    change = "evaluation={rows: null, extraction: flexible, batch_size: 7}"
    reason = snakemake.plan(finished, "--config", change)["evaluate tiny evaluations base"]
    for words in ('"rows":null', '"extraction":"flexible"', '"batch_size":7,'):
        assert words in reason.partition(" now: ")[2]


def test_every_output_survives_a_failed_job_and_every_job_leaves_a_mark_when_it_fails(snakemake, sources):
    jobs = snakemake.plan(sources)
    for job, about in jobs.items():
        assert all(name.endswith(" (update)") for name in about.output), job
    for path in (ROOT / "rules").glob("*.smk"):
        for name, body in zip(
            *[iter(re.split(r"^rule (\w+):$", path.read_text(), flags=re.MULTILINE)[1:])] * 2, strict=True
        ):
            (log,) = re.findall(r'log:\n        "([^"]+)"', body)
            assert f'retry=last_failure("{log}")' in body and "{log:q}.failed; exit 1" in body, name


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
            if path.suffix in (".json", ".jsonl", ".html")
        }

    good = artifacts()
    (published / "test.jsonl").write_text((row * 3)[:-10])
    for _ in range(2):  # the second call fails as the first did
        status, text = snakemake(folder, "--cores", "1", "results/report.html", "--config", chosen)
        assert status == 1 and "ERROR: data/published/test.jsonl, line 3: not valid JSON" in text
        assert "Traceback" not in text
        assert artifacts() == good
    (published / "test.jsonl").write_text(row * 3)
    assert "download published" in snakemake.plan(folder, "--config", chosen)
    status, text = snakemake(folder, "--cores", "1", *download)
    assert status == 0, text
    # At most the report: it shows the seconds of the download, which may be the same to the hundredth.
    assert set(snakemake.plan(folder, "--config", chosen)) <= {"report"}
    shutil.rmtree(published)
    assert set(snakemake.plan(folder, "--config", chosen)) <= {"report"}


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


def test_the_workflow_is_in_good_style(snakemake, sources):
    status, text = snakemake(sources, "--lint")
    assert status == 0 and "Congratulations" in text, text
    command = [Path(sys.executable).with_name("snakefmt"), "--check", "Snakefile", "rules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_rule_has_a_log():
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    rules = re.split(r"^rule (\w+):$", text, flags=re.MULTILINE)[1:]
    logs = {name: "\n    log:\n" in body for name, body in zip(rules[::2], rules[1::2], strict=True)}
    assert len(logs) >= 9 and all(logs.values()), logs
