"""Pairs of rows: recipe against recipe, base against trained."""

import pytest
from scipy import stats as scipy_stats

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.evaluation import comparison, stats
from gsm8k_grpo.evaluation.artifact_reading import first_completions
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


def evaluated_texts(path, texts, tags, extraction="strict"):
    """A completions.jsonl with these completions, all of the gold answer 18."""
    rows = [
        {"id": index, "sample": 0, "completion": text, "answer": "18", **grade_completion(text, "18", tags, extraction)}
        for index, text in enumerate(texts)
    ]
    files.write_jsonl(path, rows)
    return rows


def test_an_altered_verdict_is_named_and_graded_again(run_script, tmp_path, capsys):
    tags, base, final = Tags.of(effective_settings("tiny", {})["prompt"]), tmp_path / "base", tmp_path / "final"
    evaluated_texts(base, ("17", "17"), tags)
    rows = evaluated_texts(final, ("18", "17"), tags)
    right = comparison.read_checkpoints(base, final, final, tags, "strict")
    assert capsys.readouterr().out == ""
    rows[1] |= {"flexible": "18", "flexible_correct": True, "format_correct": True}
    files.write_jsonl(final, rows)
    assert comparison.read_checkpoints(base, final, final, tags, "strict") == right
    said = f"WARNING: {final}: the verdicts of row 1 are not the grader's (1 such rows); they are graded again here"
    assert capsys.readouterr().out.startswith(said)
    for broken in ({"completion": None}, {"completion": 18}, {"answer": None}, {"answer": "many"}):
        files.write_jsonl(final, [row | broken for row in rows])
        with pytest.raises(PipelineError, match=f"{final}: row 0: expected a text as completion and a number as"):
            comparison.read_checkpoints(base, final, final, tags, "strict")


@pytest.mark.parametrize("extraction", ["strict", "flexible", "cascade", "published_cascade"])
def test_checkpoints_are_compared_by_the_recipes_reading(run_script, root, tmp_path, extraction):
    before = ("18", "<answer>18</answer> or 19", "none")
    after = ("18", r"<answer>17</answer>, no, \boxed{18}, or 19", r"\boxed{18}, 19")
    # Rows before and after, by each reading.
    right = {"strict": (1, 0), "flexible": (1, 1), "cascade": (2, 3), "published_cascade": (2, 1)}
    tags = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("base", "final")}
    for path, texts in zip(paths.values(), (before, after), strict=True):
        evaluated_texts(path, texts, tags, extraction)
    settings, output = tmp_path / "settings.yaml", tmp_path / "comparison.json"
    files.write_json(settings, effective_settings("tiny", {"evaluation": {"extraction": extraction}}, root))
    sides = ("--base", paths["base"], "--final", paths["final"], "--best", paths["base"])
    run_script("compare", "--settings", settings, "--output", output, *sides)
    compared = files.read_json(output)
    assert compared["answer"] == compared[extraction]
    for name, (was, now) in right.items():
        assert compared[name]["fixed"] - compared[name]["broken"] == now - was
        assert (compared["best"][name]["fixed"], compared["best"][name]["broken"]) == (0, 0)


ROWS = 20
# How many of 20 rows each evaluation has right, by verdict; the base has none.
RIGHT_AT_THE_END = {"strict": 8, "flexible": 7, "cascade": 3, "published_cascade": 2, "partial": 6, "format": 20}
RIGHT_AT_BEST = {"strict": 9, "flexible": 7, "cascade": 5, "published_cascade": 4, "partial": 6, "format": 19}


def evaluated(path, right):
    """A completions.jsonl in which the first rows are right, as many as `right` says for each verdict."""
    rows = [
        {"id": index, "sample": 0, "completion": path.name}
        | {f"{name}_correct": index < count for name, count in right.items()}
        for index in range(ROWS)
    ]
    files.write_jsonl(path, rows)
    return path


def p_of(fixed):
    """McNemar's exact p if so many rows are fixed and none is broken."""
    return min(1.0, 2 * 0.5**fixed)


def test_one_test_is_primary_and_holm_corrects_the_others_together(tmp_path):
    sides = ({name: 0 for name in RIGHT_AT_BEST}, RIGHT_AT_THE_END, RIGHT_AT_BEST)
    paths = [evaluated(tmp_path / name, right) for name, right in zip(("base", "final", "best"), sides, strict=True)]
    found = comparison.compare_checkpoints(*map(first_completions, paths), "strict")
    assert found["answer"] == found["strict"] and found["answer"]["holm_p"] is None
    # Eleven others: five of the last checkpoint, six of the best. By hand, from the smallest p: times 11, 10, 9, ….
    by_p = [
        (found["format"], 20, 11),
        (found["best"]["format"], 19, 10),
        (found["best"]["strict"], 9, 9),
        (found["flexible"], 7, 8),
        (found["best"]["flexible"], 7, 8),  # 7 times it is less than what the one before it has
        (found["partial"], 6, 6),
        (found["best"]["partial"], 6, 6),
        (found["best"]["cascade"], 5, 4),
        (found["best"]["published_cascade"], 4, 3),
        (found["cascade"], 3, 2),
        (found["published_cascade"], 2, 1),
    ]
    assert found["secondary_tests"] == len(by_p)
    for test, fixed, times in by_p:
        assert test["mcnemar_p"] == pytest.approx(p_of(fixed)) and test["holm_p"] == pytest.approx(times * p_of(fixed))
    assert found["best"]["answer"] == found["best"]["strict"]
    # Six fixed rows are significant alone, and not among eleven tests.
    assert found["partial"]["mcnemar_p"] < 0.05 < found["partial"]["holm_p"]


def test_a_best_checkpoint_that_is_the_last_adds_no_test(tmp_path):
    base = evaluated(tmp_path / "base", {name: 0 for name in RIGHT_AT_BEST})
    final = evaluated(tmp_path / "final", RIGHT_AT_THE_END)
    found = comparison.compare_checkpoints(*map(first_completions, (base, final, final)), "cascade")
    assert found["secondary_tests"] == 5
    assert found["best"] == {name: found[name] for name in found["best"]}
    assert [found[name]["holm_p"] for name in ("answer", "cascade")] == [None, None]
    assert found["strict"]["holm_p"] == pytest.approx(4 * p_of(8))


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
    base, final = tmp_path / "base.jsonl", tmp_path / "final.jsonl"
    compared = comparison.compare_checkpoints(*map(first_completions, (base, final, final)), "flexible")
    all_rows = stats.paired_comparison([False, False, True, False, True], [True, True, False, False, True])
    assert compared["answer"] == all_rows | {"holm_p": None}
    assert list(compared["groups"]) == ["new", "known"]
    new, known = compared["groups"].values()
    assert new["answer"] == stats.paired_comparison([False, True], [True, False]) | {"holm_p": 1.0}
    assert known["answer"] == stats.paired_comparison([False, False], [True, False]) | {"holm_p": 1.0}
    assert new.keys() == compared.keys() - {"groups", "best", "secondary_tests"}
    # Five of all rows beside the primary test, and six of each group.
    assert compared["secondary_tests"] == 5 + 2 * 6


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
