"""What there is to doubt follows from the artifacts."""

import shutil

import pytest

import synthetic
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.report.caveats import list_caveats
from gsm8k_grpo.report.run_summary import summarise_run

CALM = {
    "verdicts": [[True, True]] * 200 + [[False, True]] * 100,
    "provenance": {**synthetic.PROVENANCE},
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A recipe that leaves nothing to doubt."""
    folder = tmp_path_factory.mktemp("doubts")
    synthetic.make(folder, "one", 20, 10, seeds=[0, 1])
    found = summarise_run(folder, "one", read_yaml(ROOT / "config.yaml"))
    shutil.rmtree(folder)
    before, after = zip(*CALM["verdicts"], strict=True)
    compared = dict.fromkeys(("answer", "flexible"), stats.paired_comparison(list(before), list(after)))
    never = {"truncated_rate": stats.wilson_rate(0, 300), "answer_accuracy": stats.wilson_rate(200, 300)}
    origin = {"source": "huggingface", "warning": None}
    return found | {
        "compared": compared,
        "base": found["base"] | never,
        "final": found["final"] | never,
        "best": found["final"] | never,
        "last_steps": {"groups_without_signal": 0.2, "truncated_rate": 0.0},
        "training": found["training"] | {"starts": [0]},
        "model": found["model"] | {"origin": origin},
        "stages": [{"name": "train", "starts": 1, "provenance": synthetic.PROVENANCE}],
    }


def test_without_a_reason_there_is_no_doubt(told):
    assert list_caveats(told) == []


def paired(before, after):
    return stats.paired_comparison(before, after)


@pytest.mark.parametrize(
    ("changed", "about", "said"),
    [
        ({"missing": ["one/x is not there yet"]}, "not finished", "one/x is not there yet."),
        ({"format_check": {"warning": "format check: never"}}, "format check", "format check: never."),
        ({"dataset": {"origin": {"warning": "it can move"}}}, "moving revision", "it can move."),
        ({"preflight": {"warnings": ["4 of 8 chips"], "reasons": []}}, "preflight", "4 of 8 chips."),
        ({"last_steps": {"groups_without_signal": 0.9}}, "groups without signal", "90.0 % of the groups"),
        ({"last_steps": {"truncated_rate": 0.3}}, "clipped completions", "30.0 % of the completions"),
        (
            {
                "compared": {
                    "answer": paired([False] * 300, [True] * 300),
                    "flexible": paired([True] * 300, [True] * 300),
                }
            },
            "format or mathematics",
            "more than the format changed",
        ),
        (
            {"compared": dict.fromkeys(("answer", "flexible"), paired([True, False], [True, False]))},
            "no significant",
            "too few",
        ),
        (
            {"compared": dict.fromkeys(("answer", "flexible"), paired([False] * 20, [True] * 20))},
            "small n",
            "20 rows: the intervals are wide",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_reason_is_said_once(told, changed, about, said):
    found = list_caveats(told | changed)
    assert len(found) == 1 and about in found[0][0] and said in found[0][1], found


@pytest.mark.parametrize(
    ("made", "starts", "said"),
    [
        ([{"dirty": True}], 1, "Tracked files differed"),
        ([{"commit": None}], 1, "outside of a git checkout"),
        ([{"commit": "a"}, {"commit": "b"}], 1, "from different commits"),
        ([{"versions": {"jax": "1"}}, {"versions": {"jax": "2"}}], 1, "different versions of jax"),
        ([{}], 3, "train was restarted 2 times"),
    ],
)
def test_how_it_was_made_gives_reasons_too(told, made, starts, said):
    stages = [{"name": "train", "starts": starts, "provenance": synthetic.PROVENANCE | each} for each in made]
    found = list_caveats(told | {"stages": stages})
    assert len(found) == 1 and said in found[0][1], found


def test_a_warning_that_comes_again_is_said_once(told):
    loud = [f"step {step}: the gradient explodes: its norm is {step}; lower it" for step in (7, 9, 40)]
    training = told["training"] | {"warnings": [loud[0], "step 8: nothing is learned: for 5 steps", *loud[1:]]}
    assert [sentence for _, sentence in list_caveats(told | {"training": training})] == [
        "step 7: the gradient explodes: its norm is 7; lower it (said 3 times, the last time at step 40).",
        "step 8: nothing is learned: for 5 steps.",
    ]


def test_settings_of_another_version_are_said_to_be(told):
    (found,) = list_caveats(told | {"unknown": ["miniature", "evaluation.samples"]})
    assert found[0] == "settings" and "settings.yaml lacks miniature, evaluation.samples: another version" in found[1]


def test_warnings_of_training_one_seed_and_rows_left_out_are_among_them(told):
    training = told["training"] | {"warnings": ["step 3: nothing is learned"]}
    prompts = {"splits": {"test": {"left_out": [{"id": "a"}]}}}
    found = list_caveats(
        told | {"training": training, "prompts": prompts, "settings": told["settings"] | {"seeds": None}}
    )
    assert [about for about, _ in found] == ["training", "one seed", "rows left out"]
    near = told["base"] | {"answer_accuracy": stats.wilson_rate(1, 300)}
    assert [about for about, _ in list_caveats(told | {"base": near, "final": near, "best": near})] == ["near zero"]
    several = told["final"] | {"samples": 4}
    assert [about for about, _ in list_caveats(told | {"final": several})] == ["several samples"]
    earlier = told["final"] | {"checkpoint": "step-5"}
    assert [about for about, _ in list_caveats(told | {"best": earlier})] == ["chosen on dev"]
