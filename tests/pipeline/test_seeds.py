"""Several seeds of one recipe in one run."""

import shutil

import pandas as pd
import pytest

from small_run import read, rows, snakemake

pytestmark = pytest.mark.slow


def test_several_seeds_share_one_base_evaluation_and_are_reported_together(finished, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    chosen = ("seeds=[0,1]", "training={checkpoint_interval_steps: 4}")
    status, printed = snakemake(folder, "results/report.html", "--config", *chosen)
    assert status == 0, printed
    results = folder / "results"
    over = read(results / "tiny/seeds.json")
    assert over["runs"] == ["tiny-seed-0", "tiny-seed-1"] and over["final"]["answer_accuracy"]["n"] == 2
    logs = [(results / f"logs/tiny-seed-{seed}/evaluations-base.log").read_text() for seed in (0, 1)]
    assert ["taken over" in log for log in logs] == [False, True]
    first, second = (pd.read_csv(results / f"tiny-seed-{seed}/training/metrics.csv") for seed in (0, 1))
    assert first["reward"].tolist() != second["reward"].tolist()
    # Seed 0 is the seed of the run without several: the same bits.
    alone = pd.read_csv(results / "tiny/training/metrics.csv")
    timings = [name for name in alone if name.endswith("_seconds")]
    assert first.drop(columns=timings).equals(alone.drop(columns=timings))
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "tiny over 2 seeds" in page and 'id="tiny-seed-1"' in page
    (pair,) = read(results / "comparison-of-recipes.json")["pairs"]
    right = [
        sum(row["strict_correct"] for row in rows(results / f"{run}/evaluations/final/completions.jsonl"))
        for run in over["runs"]
    ]
    assert pair["recipes"] == over["runs"] and pair["answer"]["n"] == 20
    assert pair["answer"]["fixed"] - pair["answer"]["broken"] == right[1] - right[0]
    assert "Run against run" in page
