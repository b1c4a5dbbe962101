"""A recipe and its control in one run, and a control that is killed."""

import shutil
import signal

import pandas as pd
import pytest

from small_run import assert_the_same, ended, read, rows, snakemake, train, wait_for

pytestmark = pytest.mark.slow


def test_a_control_shares_the_base_trains_on_other_rewards_and_resumes_to_the_same_bits(finished, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    status, printed = snakemake(folder, "results/report.html", "--config", "controls=[random]")
    assert status == 0, printed
    results = folder / "results"
    own, control = (results / run / "training" for run in ("tiny", "tiny-control-random"))
    assert read(own / "summary.json") == read(finished / "results/tiny/training/summary.json")  # not trained again
    assert read(own / "summary.json")["fingerprint"] != read(control / "summary.json")["fingerprint"]
    metrics = pd.read_csv(control / "metrics.csv")
    assert {name for name in metrics if name.startswith("reward")} == {"reward", "reward_std", "reward_random"}
    assert metrics["reward"].between(0, 1).all() and metrics["reward"].nunique() > 1
    # The first step samples the same completions of the same prompts; only their rewards differ.
    first, second = (rows(each / "samples.jsonl")[0] for each in (own, control))
    assert all(first[key] == second[key] for key in ("id", "completion", "answer"))
    assert "taken over" in (results / "logs/tiny-control-random/evaluations-base.log").read_text()
    page = (results / "report.html").read_text(encoding="utf-8")
    assert 'id="tiny-controls"' in page and "so a control has no gain to explain" in page

    output = tmp_path / "training"
    killed = train(folder, output, control="random")
    wait_for(killed, output, "metrics.jsonl", more_than=2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert "ERROR" not in ended(train(folder, output, control="random"))
    assert_the_same(control, output)
