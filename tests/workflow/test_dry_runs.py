"""Dry runs: all recipes, sweeps, what jobs ask a cluster for, faults of configuration."""

import collections
import importlib.util
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.evaluation.transfer import set_folder
from workflow_copy import (
    AFTER_PROMPTS,
    RECIPES,
    ROOT,
)


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
        f"base_model {name}"
        for name in (
            "gemma2-2b-reasoning-as-published-miniature",
            "gemma2-2b-reasoning-miniature",
            "gemma3-1b-working-out-as-published-miniature",
            "gemma3-270m-it-miniature",
            "minigrpo-fast-as-published-miniature",
            "minigrpo-slow-miniature",
            "qwen2.5-0.5b-rejection-sampling-miniature",
            "qwen2.5-0.5b-warm-start-miniature",
            "tiny",
        )
    }


def test_several_seeds_are_runs_of_one_dag_that_share_data_and_model(snakemake, finished):
    jobs = set(snakemake.plan(finished, "--config", "seeds=[0,1]"))
    runs = {name.replace("tiny", f"tiny-seed-{seed}") for name in AFTER_PROMPTS for seed in (0, 1)}
    assert jobs == runs | {"settings tiny-seed-0", "settings tiny-seed-1", "over_seeds tiny", "compare_recipes"}


def test_controls_are_runs_of_one_dag_that_share_data_model_and_base_evaluation(snakemake, finished):
    jobs = snakemake.plan(finished, "--config", "controls=[format_only,random]")
    controls = [f"tiny-control-{name}" for name in ("format_only", "random")]
    runs = {name.replace("tiny", control) for name in AFTER_PROMPTS for control in controls}
    # The recipe's own run stays as it is.
    assert set(jobs) == runs | {f"settings {control}" for control in controls} | {"compare_recipes"}
    for control in controls:
        shared = "results/tiny/evaluations/base/metrics.json"
        assert shared in jobs[f"evaluate {control} evaluations base"].input


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


TRANSFER = "evaluation={transfer: [svamp, {name: own, path: own.csv}]}"


def test_other_sets_are_evaluated_by_the_same_rule_and_nothing_else_runs_again(snakemake, finished, tmp_path):
    project = shutil.copytree(finished, tmp_path / "project")
    (project / "own.csv").write_text("question,answer\n1 + 1?,2\n")
    jobs = snakemake.plan(project, "--config", TRANSFER)
    assert set(jobs) == {"settings tiny", "transfer tiny", "tables", "report"} | {
        job.format(name=name)
        for name in ("svamp", "own")
        for job in (
            "transfer_rows {name}",
            "transfer_prompts tiny {name}",
            "evaluate tiny transfer/{name} base",
            "evaluate tiny transfer/{name} final",
            "evaluate tiny transfer/{name} best",
        )
    }
    final = "results/tiny/transfer/own/final/metrics.json"
    assert final in jobs["evaluate tiny transfer/own best"].input  # to take its rows over
    assert "results/tiny/transfer/own/prompts/test.jsonl" in jobs["evaluate tiny transfer/own base"].input
    snakemake.finish(project, "--config", TRANSFER)
    origin = {"sha256": {"own.csv": files.sha256_file(project / "own.csv")}}
    files.write_json(project / "results/data/own/dataset.json", {"origin": origin})
    (project / "own.csv").unlink()  # the rows made from it stay
    assert "transfer_rows own" not in snakemake.plan(project, "--config", TRANSFER)
    (project / "own.csv").write_text("question,answer\n1 + 2?,3\n")
    changed = {"transfer_rows own", "transfer_prompts tiny own", "evaluate tiny transfer/own base"}
    assert changed <= set(snakemake.plan(project, "--config", TRANSFER))


def test_runs_that_differ_in_their_seed_share_the_base_evaluation_of_another_set(snakemake, sources):
    jobs = snakemake.plan(sources, "--config", "evaluation={transfer: [svamp]}", "seeds=[0,1]")
    shared = "results/tiny-seed-0/transfer/svamp/base/metrics.json"
    assert shared in jobs["evaluate tiny-seed-1 transfer/svamp base"].input
    assert len([job for job in jobs if job.startswith("transfer_rows")]) == 1
    on_dev = snakemake.plan(sources, "--config", "evaluation={transfer: [svamp], split: dev}")
    assert "results/data/word-problems/test.jsonl" not in on_dev["transfer tiny"].input


@pytest.mark.parametrize(("profile", "plugin"), [("slurm", "slurm"), ("kubernetes", "cluster_generic")])
def test_stages_with_a_model_ask_a_cluster_for_an_accelerator(snakemake, sources, profile, plugin):
    if importlib.util.find_spec(f"snakemake_executor_plugin_{plugin}") is None:
        pytest.skip("needs `make setup-cluster`")
    arguments = ("--workflow-profile", f"profiles/{profile}", "--config", "seeds=[0,1]", "platform=cuda")
    jobs = snakemake.plan(sources, *arguments)
    asking = [job for job in jobs.values() if job.name.startswith(("base_model", "format_check", "train", "evaluate"))]
    assert len(asking) > 8
    for job in asking:
        assert job.resources["gres"] == "gpu:1" and int(job.resources["mem_mb"]) > 4000, job.name


def test_a_dry_run_says_how_many_sessions_the_training_takes(snakemake, sources, tmp_path):
    folder = shutil.copytree(sources, tmp_path / "project")
    estimate = {"step_seconds": 1000.0, "is": "a lower bound"}
    files.write_json(folder / "results/tiny/preflight.json", {"estimate": estimate})
    status, text = snakemake(folder, "--dry-run", "--config", "stop_after_hours=1", "platform=tpu")
    said = "sessions: tiny: training takes at least 2 sessions of 1 hours, stop after step 3 (1,000 s a step, by the "
    assert status == 0 and text.count(said) == 1, text


def test_a_dry_run_says_which_files_of_the_users_own_are_missing(snakemake, sources, tmp_path):
    folder = shutil.copytree(sources, tmp_path / "project")
    gsm8k = ("recipes=tiny-gsm8k", "evaluation={transfer: [{name: own, path: own.csv}]}")
    local = ("recipes=qwen2.5-0.5b", "dataset={source: huggingface}", "model={source: local, path: /none}")

    def said(chosen):
        status, text = snakemake(folder, "--dry-run", "--config", *chosen)
        assert status == 0, text
        return [line for line in text.splitlines() if line.startswith("WARNING: ") and "disk: " not in line]

    assert said(gsm8k) == [
        "WARNING: dataset.path: data/gsm8k/train.jsonl does not exist; put GSM8K's published train.jsonl and "
        "test.jsonl into data/gsm8k, set dataset.path to their folder, or set dataset.source to huggingface",
        "WARNING: evaluation.transfer: own: own.csv is no file; correct its path",
    ]
    (folder / "data/gsm8k").mkdir(parents=True)
    for name in ("own.csv", "data/gsm8k/train.jsonl", "data/gsm8k/test.jsonl"):
        (folder / name).touch()
    assert said(gsm8k) == []
    assert said(local) == ["WARNING: model.path: /none is not a folder; name the one with the model's files"]
    files.write_json(folder / "results/models/qwen2.5-0.5b/model.json", {"origin": {"files": {}, "path": "/none"}})
    assert said(local) == []  # it is made already


@pytest.mark.parametrize("size", ["", "-miniature"])
def test_every_recipe_has_a_dry_run(snakemake, sources, size):
    recipes = [recipe for recipe in RECIPES if not (size and recipe.startswith("tiny"))]  # those are small already
    jobs = snakemake.plan(sources, "--config", f"recipes=[{','.join(recipes)}]", f"miniature={bool(size)}")
    for recipe in (f"{name}{size}" for name in recipes):
        own = {job for job in jobs if recipe in job.split()}
        tested = {f"evaluate {recipe} evaluations {checkpoint}" for checkpoint in ("base", "final", "best")}
        assert {f"train {recipe}", f"evaluate {recipe} evaluations-dev base"} | tested < own
        assert {job for job in own if " evaluations " in job} == tested  # test is read for no other checkpoint
    assert "report" in jobs


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("trainig={beta: 0.05}", "recipe tiny: trainig: unknown key; there are recipes, miniature,"),
        ("training={bata: 0.05}", "recipe tiny: training.bata: unknown key; there are method,"),
        ("training={learning_rate: 1e-6}", "recipe tiny: training.learning_rate: expected a number, found '1e-6'"),
        ("training={num_generations: 1}", "recipe tiny: training.num_generations: expected at least 2, found 1"),
        ("training={micro_batch_completions: 7}", "recipe tiny: training.micro_batch_completions: 7 does not divide"),
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
    reason = snakemake.plan(finished, "--config", change)["evaluate tiny evaluations base"].reason
    for words in ('"rows":null', '"extraction":"flexible"', '"batch_size":7,'):
        assert words in reason.partition(" now: ")[2]


def test_a_rule_names_nothing_unquoted_in_its_command():
    for path in {*(ROOT / "rules").glob("*.smk")} - {ROOT / "rules" / "common.smk"}:
        text = path.read_text()
        commands = re.findall(r"stage\((.+)\)\n", text) + re.findall(r"stage\(\n(.*?)\n        \)\n", text, re.DOTALL)
        assert len(commands) == text.count("    shell:\n")
        fields = re.findall(r"\{[^{}]+\}", "".join(commands))
        assert fields and all(field.endswith(":q}") for field in fields), (path.name, fields)


def test_every_rule_has_a_log():
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    rules = re.split(r"^rule (\w+):$", text, flags=re.MULTILINE)[1:]
    logs = {name: "\n    log:\n" in body for name, body in zip(rules[::2], rules[1::2], strict=True)}
    assert len(logs) >= 9 and all(logs.values()), logs


def test_a_dry_run_of_the_default_is_short_and_says_in_words_what_runs_and_why(snakemake, sources):
    status, text = snakemake(sources, "--dry-run")
    assert status == 0 and len(text.splitlines()) <= 150
    planned = re.findall(r"^Job \d+: (.+)\nReason: (.+)$", text, re.MULTILINE)
    assert len(planned) == len(snakemake.plan(sources))
    assert ("Train tiny", "Missing output files: ") in [(job, why[:22]) for job, why in planned]
    assert "Choose the best checkpoint of tiny on dev" in dict(planned)


def test_snakemakes_own_report_has_page_plots_and_tables_and_needs_no_network(snakemake, finished, tmp_path):
    made = tmp_path / "report.zip"
    status, text = snakemake(finished, "results/report.html", "--report", str(made))
    assert status == 0, text
    with zipfile.ZipFile(made) as packed:
        held = {Path(name).name for name in packed.namelist()}
    assert {"accuracy.svg", "training.svg", "rates.csv", "comparisons.csv", "report.html"} <= held
    assert made.stat().st_size < 5_000_000


def test_the_librarys_paths_are_those_of_the_rules(snakemake, sources):
    results = Path("results")
    outputs = {name.removesuffix(" (update)") for job in snakemake.plan(sources).values() for name in job.output}
    assert {
        str(layout.dataset_folder(results, "word-problems") / "train.jsonl"),
        str(layout.model_folder(results, "tiny") / "model.json"),
        str(layout.settings_file(results, "tiny")),
        str(layout.prompts_file(results, "tiny", "dev")),
        str(layout.training_folder(results, "tiny") / "summary.json"),
        str(layout.evaluation_folder(results, "tiny", "best") / "metrics.json"),
        str(layout.evaluation_folder(results, "tiny", "step-2", on_dev=True) / "completions.jsonl"),
    } <= outputs
    planned = snakemake.plan(sources, "--config", "evaluation={transfer: [svamp]}").values()
    outputs = {name.removesuffix(" (update)") for job in planned for name in job.output}
    assert str(set_folder(results, "tiny", "svamp") / "base" / "metrics.json") in outputs


def test_stages_run_in_the_container_only_where_its_image_is_and_apptainer_too(snakemake, sources, tmp_path):
    folder = shutil.copytree(sources, tmp_path / "project")
    asked = ("--dry-run", "--sdm", "apptainer")
    status, text = snakemake(folder, *asked)
    assert status == 1 and "showing-its-work.sif: no such file; --sdm apptainer runs the stages in this image" in text
    (folder / "showing-its-work.sif").touch()
    status, text = snakemake(folder, *asked, PATH=str(tmp_path))
    assert status == 1 and "apptainer or singularity command has to be available" in text
    assert snakemake.plan(folder)  # without being asked, they need neither
