"""Recipe against recipe: only on rows that both answered, with as many corrections as there are pairs."""

import json
import subprocess
import sys

import pytest
from scipy import stats as scipy_stats

from gsm8k_grpo.evaluation import comparison, stats


def verdicts(right, rows):
    """One recipe's verdicts on rows; `right` of them answered, the others not."""
    return {row: {"answer": row in right, "format": True} for row in rows}


def test_pairs_are_tested_on_the_rows_that_both_answered():
    rows = [("a", "1 + 1?", "2"), ("b", "1 + 2?", "3"), ("c", "1 + 3?", "4"), ("d", "other words", "5")]
    other = [*rows[:3], ("d", "another question of the same id", "5")]
    found = comparison.of_recipes(
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
    found = comparison.of_recipes(
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


def test_the_stage_reads_questions_and_completions_from_their_artifacts(root, tmp_path):
    import synthetic

    for recipe in ("one", "two"):
        synthetic.make(tmp_path, recipe, 30, 10)
    output = tmp_path / "comparison-of-recipes.json"
    command = [
        sys.executable,
        root / "scripts" / "compare_recipes.py",
        "--results",
        tmp_path,
        "--recipes",
        "one",
        "two",
    ]
    command += ["--output", output, "--plot", tmp_path / "cost.svg"]
    subprocess.run(command, check=True)
    drawn = (tmp_path / "cost.svg").read_text()
    assert all(drawn.count(f">{text}<") == 1 for text in ("one", "two", "seconds of training", "tokens of training"))
    (pair,) = json.loads(output.read_text())["pairs"]
    right = {
        recipe: sum(
            json.loads(line)["strict_correct"]
            for line in (tmp_path / recipe / "evaluations/final/completions.jsonl").read_text().splitlines()
        )
        for recipe in ("one", "two")
    }
    assert pair["answer"]["fixed"] - pair["answer"]["broken"] == right["two"] - right["one"]
    assert pair["answer"]["n"] == 30
    # A recipe that is not finished is an error of one sentence.
    (tmp_path / "two/evaluations/final/completions.jsonl").unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("ERROR: ") and "no such file" in done.stderr
