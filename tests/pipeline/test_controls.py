"""A recipe and its controls in one run, and a control that is killed."""

import shutil
import signal

import pandas as pd
import pytest

from small_run import assert_the_same, ended, read, rows, snakemake, train, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def controlled(finished, tmp_path_factory):
    """The small run with its controls."""
    folder = tmp_path_factory.mktemp("controlled") / "project"
    shutil.copytree(finished, folder)
    status, printed = snakemake(
        folder, "results/report.html", "--config", "controls=[format_only,shuffled_gold,random]"
    )
    assert status == 0, printed
    return folder


def test_controls_share_the_base_and_train_on_other_rewards(finished, controlled):
    results = controlled / "results"
    own = results / "tiny/training"
    assert read(own / "summary.json") == read(finished / "results/tiny/training/summary.json")  # not trained again
    metrics = {name: pd.read_csv(results / f"tiny-control-{name}/training/metrics.csv") for name in
               ("format_only", "shuffled_gold", "random")}  # fmt: skip
    columns = {
        name: [each.removeprefix("reward_") for each in table if each.startswith("reward_") and each != "reward_std"]
        for name, table in metrics.items()
    }
    demo = ["format_exact", "format_approximate", "answer", "number"]
    assert columns == {"format_only": demo[:2], "shuffled_gold": demo, "random": ["random"]}
    assert metrics["random"]["reward"].between(0, 1).all() and metrics["random"]["reward"].nunique() > 1
    # The first step samples the same completions of the same prompts; only their rewards differ.
    first = {name: rows(results / f"{name}/training/samples.jsonl")[0] for name in ("tiny", "tiny-control-random")}
    assert first["tiny"]["completion"] == first["tiny-control-random"]["completion"]
    assert first["tiny"]["answer"] == first["tiny-control-random"]["answer"]
    prints = {read(path)["fingerprint"] for path in results.glob("tiny*/training/summary.json")}
    assert len(prints) == 4
    for name in metrics:
        assert "taken over" in (results / f"logs/tiny-control-{name}/evaluations-base.log").read_text()
    page = (results / "report.html").read_text(encoding="utf-8")
    assert 'id="tiny-controls"' in page and "so a control has no gain to explain" in page


@pytest.mark.parametrize("control", ["shuffled_gold", "random"])
def test_a_control_that_is_killed_resumes_to_the_same_bits(controlled, tmp_path, control):
    output = tmp_path / "training"
    killed = train(controlled, output, control=control)
    wait_for(killed, output, "metrics.jsonl", more_than=2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert "ERROR" not in ended(train(controlled, output, control=control))
    assert_the_same(controlled / f"results/tiny-control-{control}/training", output)
