"""Pairs of rows: recipe against recipe, base against trained."""

import pytest
from scipy import stats as scipy_stats

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.evaluation import comparison, stats
from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.rewards.answers import Tags


def verdicts(right, rows):
    """One recipe's verdicts on rows; `right` of them answered, the others not."""
    return {row: {"answer": row in right, "format": True} for row in rows}


def test_pairs_are_tested_on_the_rows_that_both_answered():
    rows = [("a", "1 + 1?", "2"), ("b", "1 + 2?", "3"), ("c", "1 + 3?", "4"), ("d", "other words", "5")]
    other = [*rows[:3], ("d", "another question of the same id", "5")]
    found = comparison.compare_recipes(
        {"one": verdicts(rows[:1], rows), "two": verdicts(other[1:], other), "three": verdicts([], [("z", "?", "1")])}
    )
    (pair,) = found["pairs"]
    assert pair["recipes"] == ["one", "two"]
    counts = {name: pair["answer"][name] for name in ("both", "fixed", "broken", "neither", "n")}
    assert counts == {"both": 0, "fixed": 2, "broken": 1, "neither": 0, "n": 3}
    assert pair["answer"]["holm_p"] == pair["answer"]["mcnemar_p"] and "holm_p" not in pair["format"]
    assert found["apart"] == [["one", "three"], ["two", "three"]]


def test_p_is_corrected_for_the_number_of_pairs():
    rows = list(range(40))
    found = comparison.compare_recipes(
        {"low": verdicts([], rows), "middle": verdicts(rows[:6], rows), "high": verdicts(rows[:30], rows)}
    )
    raw = [pair["answer"]["mcnemar_p"] for pair in found["pairs"]]
    assert [pair["answer"]["holm_p"] for pair in found["pairs"]] == stats.holm(raw)
    assert found["pairs"][0]["answer"]["holm_p"] == raw[0] > raw[1]  # the largest p is not corrected


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_as_published(p, corrected):
    assert stats.holm(p) == pytest.approx(corrected)


def test_holm_is_never_stricter_than_bonferroni_nor_laxer_than_benjamini_hochberg():
    p = [0.001, 0.2, 0.013, 0.04, 0.0005, 0.7]
    for ours, single, lax in zip(stats.holm(p), p, scipy_stats.false_discovery_control(p), strict=True):
        assert lax - 1e-12 <= ours <= min(1.0, len(p) * single)


def test_the_stage_compares_the_final_checkpoints_of_recipes(run_script, tmp_path):
    for recipe in ("one", "two"):
        synthetic.make(tmp_path, recipe, 30, 10)
    output, plot = tmp_path / "comparison-of-recipes.json", tmp_path / "cost.svg"
    arguments = ("--results", tmp_path, "--recipes", "one", "two", "--output", output, "--plot", plot)
    run_script("compare_recipes", *arguments)
    drawn = plot.read_text()
    assert all(drawn.count(f">{text}<") == 1 for text in ("one", "two", "seconds of training", "tokens of training"))
    (pair,) = files.read_json(output)["pairs"]
    completions = {recipe: tmp_path / recipe / "evaluations/final/completions.jsonl" for recipe in ("one", "two")}
    right = {name: sum(row["strict_correct"] for row in files.read_jsonl(path)) for name, path in completions.items()}
    assert pair["answer"]["fixed"] - pair["answer"]["broken"] == right["two"] - right["one"]
    assert pair["answer"]["n"] == 30
    completions["two"].unlink()
    with pytest.raises(PipelineError, match=f"{completions['two']}: no such file"):
        run_script("compare_recipes", *arguments)


@pytest.mark.parametrize("extraction", ["strict", "flexible", "cascade"])
def test_checkpoints_are_compared_by_the_recipes_reading(run_script, root, tmp_path, extraction):
    before = ("18", "<answer>18</answer> or 19", "none")
    after = ("18", r"<answer>17</answer>, no, \boxed{18}, or 19", r"\boxed{18}, 19")
    right = {"strict": (1, 0), "flexible": (1, 1), "cascade": (2, 3)}  # rows before and after, by each reading
    tags = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("base", "final")}
    for path, texts in zip(paths.values(), (before, after), strict=True):
        graded = [grade_completion(text, "18", tags, "strict") for text in texts]
        files.write_jsonl(path, [{"id": index, "sample": 0, **row} for index, row in enumerate(graded)])
    settings, output = tmp_path / "settings.yaml", tmp_path / "comparison.json"
    files.write_json(settings, effective_settings("tiny", {"evaluation": {"extraction": extraction}}, root))
    sides = ("--base", paths["base"], "--final", paths["final"], "--best", paths["base"])
    run_script("compare", "--settings", settings, "--output", output, *sides)
    compared = files.read_json(output)
    assert compared["answer"] == compared[extraction]
    for name, (was, now) in right.items():
        assert compared[name]["fixed"] - compared[name]["broken"] == now - was
        assert (compared["best"][name]["fixed"], compared["best"][name]["broken"]) == (0, 0)


def test_each_group_is_compared_on_its_own_rows(tmp_path):
    tags = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    texts = {"base": ("17", "17", "18", "17", "18"), "final": ("18", "18", "17", "17", "18")}
    groups = ({"group": "new"}, {"group": "known"}, {"group": "new"}, {"group": "known"}, {})
    for side, completions in texts.items():
        graded = [grade_completion(text, "18", tags, "strict") for text in completions]
        rows = [
            {"id": index, "sample": 0, **row, **group}
            for index, (row, group) in enumerate(zip(graded, groups, strict=True))
        ]
        files.write_jsonl(tmp_path / f"{side}.jsonl", rows)
    compared = comparison.compare_files(tmp_path / "base.jsonl", tmp_path / "final.jsonl", "flexible")
    assert compared["answer"] == stats.paired_comparison(
        [False, False, True, False, True], [True, True, False, False, True]
    )
    assert list(compared["groups"]) == ["new", "known"]
    assert compared["groups"]["new"]["answer"] == stats.paired_comparison([False, True], [True, False])
    assert compared["groups"]["known"]["answer"] == stats.paired_comparison([False, False], [True, False])
    assert compared["groups"]["new"].keys() == compared.keys() - {"groups"}


def paired(before, after):
    """Pairs of rows that were right or wrong."""
    base, final = ([{"id": str(index), "right": right} for index, right in enumerate(side)] for side in (before, after))
    return comparison.pair_rows({"base": base, "final": final}, "right")


def test_pairs_are_named_by_their_outcome():
    pairs = paired([True, True, False, False], [True, False, True, False])
    outcomes = [pair["outcomes"]["final"] for pair in pairs]
    assert outcomes == ["right both times", "broken", "fixed", "wrong both times"]


def test_rows_are_paired_by_id():
    base, final = [{"id": "a", "right": True}, {"id": "b", "right": True}], [{"id": "b", "right": False}]
    best = [{"id": "b", "right": True}, {"id": "c", "right": True}]
    (pair,) = comparison.pair_rows({"base": base, "final": final, "best": best}, "right")
    assert pair["id"] == "b" and pair["outcomes"] == {"final": "broken", "best": "right both times"}
    assert pair["sides"] == {"base": base[1], "final": final[0], "best": best[0]}
