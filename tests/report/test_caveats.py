"""The caveats of a run follow from its artifacts."""

import shutil

import numpy as np
import pandas as pd
import pytest

import synthetic
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.report.caveats import across_machines, list_caveats, reward_without_accuracy
from gsm8k_grpo.report.run_summary import summarise_run

ON_CPU = {"device": "1 × cpu", "processor": "2 × EPYC"}


def paired(before, after):
    return stats.paired_comparison(before, after)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run without any caveat."""
    folder = tmp_path_factory.mktemp("caveats")
    synthetic.make(folder, "one", 20, 10, seeds=[0, 1])
    found = summarise_run(folder, "one", read_yaml(ROOT / "config.yaml"))
    shutil.rmtree(folder)
    compared = dict.fromkeys(("answer", "flexible"), paired([True] * 200 + [False] * 100, [True] * 300))
    never = {"truncated_rate": stats.wilson_rate(0, 300), "answer_accuracy": stats.wilson_rate(200, 300)}
    origin = {"source": "huggingface", "warning": None}
    return found | {
        "compared": compared,
        "base": found["base"] | never,
        "final": found["final"] | never,
        "best": found["final"] | never,
        "last_steps": {"groups_without_signal": 0.2, "truncated_rate": 0.0},
        "training": found["training"] | {"starts": [0]},
        "reward_audit": found["reward_audit"] | {"warning": None},
        "model": found["model"] | {"origin": origin},
        "stages": [{"name": "train", "starts": 1, "provenance": synthetic.PROVENANCE}],
    }


def test_a_sound_run_has_no_caveats(run):
    assert list_caveats(run) == []


@pytest.mark.parametrize(
    ("changed", "heading", "message"),
    [
        ({"missing": ["one/x does not exist yet"]}, "not finished", "one/x does not exist yet."),
        ({"format_check": {"warning": "format check: never"}}, "format check", "format check: never."),
        ({"reward_audit": {"warning": "reward audit: a hole"}}, "reward audit", "reward audit: a hole."),
        ({"dataset": {"origin": {"warning": "it can move"}}}, "moving revision", "it can move."),
        ({"preflight": {"warnings": ["4 of 8 chips"], "reasons": []}}, "preflight", "4 of 8 chips."),
        ({"last_steps": {"groups_without_signal": 0.9}}, "groups without signal", "90.0 % of the groups"),
        ({"last_steps": {"truncated_rate": 0.3}}, "cut completions", "30.0 % of the completions"),
        (
            {
                "compared": {
                    "answer": paired([False] * 300, [True] * 300),
                    "flexible": paired([True] * 300, [True] * 300),
                }
            },
            "format or mathematics",
            "perhaps only the format changed",
        ),
        (
            {"compared": dict.fromkeys(("answer", "flexible"), paired([True, False], [True, False]))},
            "no significant",
            "too few",
        ),
        (
            {"compared": dict.fromkeys(("answer", "flexible"), paired([False] * 20, [True] * 20))},
            "small n",
            "20 rows give wide intervals",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_reason_gives_one_caveat(run, changed, heading, message):
    found = list_caveats(run | changed)
    assert len(found) == 1 and heading in found[0][0] and message in found[0][1], found


@pytest.mark.parametrize(
    ("made", "starts", "message"),
    [
        ([{"dirty": True}], 1, "Tracked files differed"),
        ([{"commit": None}], 1, "outside a git checkout"),
        ([{"commit": "a"}, {"commit": "b"}], 1, "from different commits"),
        ([{"versions": {"jax": "1"}}, {"versions": {"jax": "2"}}], 1, "different versions of jax"),
        ([{}, {"device": "1 × NVIDIA L4"}], 1, "different machines (1 × NVIDIA L4; 8 × TPU v5e)"),
        ([ON_CPU, ON_CPU | {"processor": "1 × EPYC"}], 1, "different machines (1 × EPYC; 2 × EPYC)"),
        ([{}], 3, "train was restarted 2 times"),
    ],
)
def test_provenance_gives_caveats(run, made, starts, message):
    stages = [{"name": "train", "starts": starts, "provenance": synthetic.PROVENANCE | each} for each in made]
    found = list_caveats(run | {"stages": stages})
    assert len(found) == 1 and message in found[0][1], found


def test_stages_whose_machine_does_not_matter_give_no_caveat(run):
    made = {
        "train": synthetic.PROVENANCE,
        "compare": ON_CPU | {"device": "cpu (JAX not used)"},
        "preflight": ON_CPU,
        "evaluate final on test": {"processor": "another host of the slice"},
    }
    stages = [
        {"name": name, "starts": 1, "provenance": synthetic.PROVENANCE | provenance}
        for name, provenance in made.items()
    ]
    assert list_caveats(run | {"stages": stages}) == []


def test_runs_of_different_machines_are_said_to_be(run):
    def trained(name, **provenance):
        made = {"provenance": synthetic.PROVENANCE | ON_CPU | provenance}
        return run | {"name": name, "training": run["training"] | made}

    first, second = trained("one"), trained("two")
    assert across_machines([first, second, run | {"training": None}, {"settings": None}]) == ""
    third = trained("three", processor="4 × Xeon")
    said = across_machines([first, third, second])
    assert "one, two on 2 × EPYC, jaxlib None; three on 4 × Xeon, jaxlib None" in said
    other = trained("four", versions={"jaxlib": "0.11"})
    assert "four on 2 × EPYC, jaxlib 0.11" in across_machines([first, other])


def test_repeated_warnings_of_training_become_one_caveat(run):
    loud = [f"step {step}: the gradient explodes: its norm is {step}; lower it" for step in (7, 9, 40)]
    training = run["training"] | {"warnings": [loud[0], "step 8: nothing is learned: for 5 steps", *loud[1:]]}
    assert [sentence for _, sentence in list_caveats(run | {"training": training})] == [
        "step 7: the gradient explodes: its norm is 7; lower it (3 times, the last time at step 40).",
        "step 8: nothing is learned: for 5 steps.",
    ]


def test_settings_of_another_version_are_a_caveat(run):
    (found,) = list_caveats(run | {"unknown": ["miniature", "evaluation.samples"]})
    assert found[0] == "settings" and "another version of the pipeline, lacks miniature, evaluation.samples" in found[1]


def test_warnings_seeds_rows_and_evaluations_give_caveats(run):
    training = run["training"] | {"warnings": ["step 3: nothing is learned"]}
    prompts = {"splits": {"test": {"left_out": [{"id": "a"}]}}}
    found = list_caveats(
        run | {"training": training, "prompts": prompts, "settings": run["settings"] | {"seeds": None}}
    )
    assert [about for about, _ in found] == ["training", "one seed", "rows left out"]
    near = run["base"] | {"answer_accuracy": stats.wilson_rate(1, 300)}
    assert [about for about, _ in list_caveats(run | {"base": near, "final": near, "best": near})] == ["near zero"]
    several = run["final"] | {"samples": 4}
    assert [about for about, _ in list_caveats(run | {"final": several})] == ["several samples"]
    earlier = run["final"] | {"checkpoint": "step-5"}
    assert [about for about, _ in list_caveats(run | {"best": earlier})] == ["chosen on dev"]


def stretch(rewards, right, interval=30, rows=300):
    """What the report says of a run with these rewards by step and right answers at the base and each checkpoint."""
    metrics = pd.DataFrame({"step": range(1, len(rewards) + 1), "reward": rewards})
    dev = [
        {"step": interval * index, "split": "dev", "answer_accuracy": stats.wilson_rate(count, rows)}
        for index, count in enumerate(right)
    ]
    return reward_without_accuracy(metrics, dev)


NOISE = np.random.default_rng(0).normal(0, 0.3, 90)


def test_a_reward_that_rises_without_dev_accuracy_names_the_steps():
    rewards = np.linspace(1, 8, 90) + NOISE
    assert stretch(rewards, [90, 150, 210, 270]) == ""
    sentence = stretch(rewards, [90, 210, 150, 120])  # rises to step 30, then falls to the end
    assert sentence.startswith("From step 30 to step 90 the reward rises (4")
    assert "70.0 % (64.6 to 74.9), then 40.0 % (34.6 to 45.6), of 300 dev rows" in sentence
    assert "From step 0 to step 90" in stretch(rewards, [90, 210, 150, 90])  # in the end, not above the base


def test_a_reward_that_hardly_rises_or_falls_is_no_caveat():
    level = [90, 90, 90, 90]
    assert stretch(NOISE, level) == "" and stretch(np.full(90, 2.0), level) == ""
    assert stretch(np.linspace(8, 1, 90) + NOISE, level) == ""
    # Most of the range is noise between steps, or the rise of steps in which accuracy rises too.
    assert stretch(np.linspace(1, 1.5, 90) + 10 * NOISE, level) == ""
    saturated = np.concatenate([np.linspace(1, 9, 30), np.linspace(9, 9.3, 60)]) + NOISE / 10
    assert stretch(saturated, [90, 290, 290, 288]) == ""
    assert stretch(np.linspace(1, 8, 9), level, interval=3) == ""  # too few steps between checkpoints


def test_a_reward_without_accuracy_and_a_collapse_are_on_the_page(run):
    metrics = pd.DataFrame({"step": range(1, 61), "reward": np.linspace(1, 8, 60)})
    selection = [
        run["selection"][0] | {"step": step, "answer_accuracy": stats.wilson_rate(100, 300)} for step in (0, 60)
    ]
    training = run["training"] | {"warnings": ["step 24: the reasoning collapses: a completion has 0 words"]}
    found = list_caveats(run | {"metrics": metrics, "selection": selection, "training": training})
    assert [heading for heading, _ in found] == ["training", "reward without accuracy"]
    assert "step 24: the reasoning collapses" in found[0][1] and "From step 0 to step 60" in found[1][1]
