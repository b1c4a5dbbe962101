"""Rates of one or several completions a prompt, choice of the best checkpoint, seeds, format check."""

import pytest

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.evaluation.artifact_writing import take_over_evaluation
from gsm8k_grpo.evaluation.best_checkpoint import choose_best
from gsm8k_grpo.evaluation.format_check import summarise_format
from gsm8k_grpo.evaluation.grading import grade_completion, grade_row
from gsm8k_grpo.evaluation.metrics import COUNTED_VERDICTS, summarise_metrics
from gsm8k_grpo.evaluation.seeds import summarise_seeds
from gsm8k_grpo.rewards.answers import READINGS, Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
COMPLETIONS = ("18", r"<answer>17</answer>, no, \boxed{18}, or 19", r"\boxed{18}, 19")
RIGHT = {"strict": 0, "flexible": 1, "cascade": 3, "published_cascade": 1}  # rows of `COMPLETIONS`, by each reading


def graded(completions):
    """Rows as the stage `evaluate` writes them."""
    return [
        {
            **{
                "id": str(index),
                "sample": 0,
                "answer": "18",
                **grade_completion(text, "18", TAGS, "strict"),
                "tokens": 4 * index,
            },
            "stop_reason": "limit" if index == 2 else "end_of_turn",
        }
        for index, text in enumerate(completions)
    ]


@pytest.mark.parametrize("extraction", RIGHT)
def test_answer_accuracy_follows_the_recipes_extraction(extraction):
    metrics = summarise_metrics(graded(COMPLETIONS), extraction)
    assert metrics["answer_accuracy"] == metrics[f"{extraction}_accuracy"]
    for name, right in RIGHT.items():
        assert (metrics[f"{name}_accuracy"]["value"], metrics[f"{name}_accuracy"]["n"]) == (right / 3, 3)
    assert (metrics["truncated_rate"]["value"], metrics["mean_completion_tokens"]) == (1 / 3, 4.0)


@pytest.fixture
def taken_over(tmp_path):
    """Writes rows as an evaluation, takes it over, and returns (metrics, rows) of the copy."""
    tags = dict(zip(("reasoning_start", "reasoning_end", "answer_start", "answer_end"), TAGS.all(), strict=True))
    settings = {
        "prompt": {"tags": tags, "reasoning": {"calculations": 1, "words": 6}},
        "evaluation": {"extraction": "strict", "samples": 1},
    }
    prompts = [{"id": str(index), "prompt": "?", "answer": "18"} for index in range(3)]

    def taken_over(rows, **metrics):
        files.write_jsonl(tmp_path / "first" / "completions.jsonl", rows)
        files.write_json(tmp_path / "first" / "metrics.json", {"fingerprint": "x", **metrics})
        same, copy = [tmp_path / "first" / "metrics.json"], tmp_path / "copy"
        found = take_over_evaluation(same, "x", copy, prompts, settings)
        return found, files.read_jsonl(copy / "completions.jsonl") if found else None

    return taken_over


def test_a_verdict_that_was_altered_is_read_again_where_an_evaluation_is_taken_over(taken_over, capsys):
    rows = [{**row, "completion": text} for row, text in zip(graded(COMPLETIONS), COMPLETIONS, strict=True)]
    metrics = summarise_metrics(rows, "strict")
    assert taken_over(rows, **metrics) == ({"fingerprint": "x", **metrics}, rows)
    assert "altered" not in capsys.readouterr().out
    altered = [rows[0], rows[1] | {"strict_correct": True, "answer": "17"}, rows[2]]
    assert taken_over(altered, **summarise_metrics(altered, "strict")) == ({"fingerprint": "x", **metrics}, rows)
    assert "completions.jsonl, line 2: is altered (1 in all); it is graded again" in capsys.readouterr().out


def test_an_evaluation_that_lacks_rows_is_not_taken_over(taken_over, capsys):
    rows = [{**row, "completion": text} for row, text in zip(graded(COMPLETIONS), COMPLETIONS, strict=True)]
    for damaged in (rows[:2], [*rows[:2], rows[1]], [*rows[:2], rows[2] | {"completion": 3}]):
        assert taken_over(damaged) == (None, None)
        assert "does not have the completions of each prompt" in capsys.readouterr().out


def test_groups_of_rows_have_rates_of_their_own():
    rows = graded(("<answer>18</answer>", "18", "17", "none", "18"))
    for row, group in zip(rows, ("a", "b", "a", "b"), strict=False):  # the last row is in no group
        row["group"] = group
    metrics = summarise_metrics(rows, "strict")
    groups = metrics.pop("groups")
    assert list(groups) == ["a", "b"]
    assert groups["a"] == summarise_metrics([{**row, "group": "a"} for row in rows[0:3:2]], "strict")["groups"]["a"]
    assert [groups[name]["flexible_accuracy"] for name in "ab"] == [stats.wilson_rate(1, 2)] * 2
    assert [groups[name]["strict_accuracy"] for name in "ab"] == [stats.wilson_rate(1, 2), stats.wilson_rate(0, 2)]
    # The rates of all rows are what they are without groups.
    ungrouped = [{key: value for key, value in row.items() if key != "group"} for row in rows]
    assert metrics == summarise_metrics(ungrouped, "strict")


@pytest.mark.parametrize(("extraction", "near"), [("strict", [True, False]), ("flexible", [False, True])])
def test_partial_accuracy_follows_the_recipes_extraction(extraction, near):
    texts = ("<answer>17</answer> of 100", "<answer>100</answer> or 19")
    assert [grade_completion(text, "18", TAGS, extraction)["partial_correct"] for text in texts] == near


def measured(checkpoint, step, right, n=50, split="dev"):
    """The part of a metrics.json that the choice and the seeds need."""
    rates = {f"{name}_accuracy": stats.wilson_rate(right, n) for name in ("answer", *COUNTED_VERDICTS)}
    known = {"checkpoint": checkpoint, "step": step, "split": split, "extraction": "strict"}
    return {**known, **rates, "truncated_rate": stats.wilson_rate(n - right, n)}


@pytest.mark.parametrize(
    ("right", "chosen"),
    [
        ((10, 20, 30, 40), "final"),
        ((10, 20, 40, 30), "step-4"),
        ((10, 40, 40, 40), "step-2"),  # of equals, the one trained least
        ((50, 3, 4, 2), "step-4"),  # the base model is no candidate
    ],
)
def test_the_best_checkpoint_is_the_most_accurate_trained_one(right, chosen):
    names = [("base", 0), ("step-2", 2), ("step-4", 4), ("final", 6)]
    found = choose_best([measured(*name, count) for name, count in zip(names, right, strict=True)])
    assert (found["checkpoint"], found["split"]) == (chosen, "dev")
    assert [each["checkpoint"] for each in found["candidates"]] == ["step-2", "step-4", "final"]
    assert found["answer_accuracy"]["value"] == max(right[1:]) / 50 and found["step"] == dict(names)[chosen]


def test_checkpoints_need_the_same_rows_and_a_trained_one():
    with pytest.raises(PipelineError, match="not evaluated on the same rows"):
        choose_best([measured("base", 0, 1), measured("final", 6, 1, n=49)])
    with pytest.raises(PipelineError, match="no checkpoint to choose from"):
        choose_best([measured("base", 0, 1)])


def test_seeds_give_means_of_rates_and_of_differences_within_a_run():
    runs = {
        f"tiny-seed-{seed}": {
            "base": measured("base", 0, 25),
            "best": measured("step-2", 2, best),
            "final": measured("final", 4, final),
        }
        for seed, best, final in ((0, 20, 40), (1, 30, 45), (2, 40, 50))
    }
    found = summarise_seeds(runs)
    assert found["runs"] == ["tiny-seed-0", "tiny-seed-1", "tiny-seed-2"]
    assert found["base"]["answer_accuracy"] == {"value": 0.5, "sd": 0.0, "low": 0.5, "high": 0.5, "n": 3}
    assert found["final - base"]["answer_accuracy"]["value"] == pytest.approx(0.4)
    # t(0.975, 2) = 4.3027 (any table); the sample deviation of 0.3, 0.4, 0.5 is 0.1.
    assert found["final - base"]["answer_accuracy"]["high"] == pytest.approx(0.4 + 4.3027 * 0.1 / 3**0.5, abs=1e-5)
    assert found["best"]["truncated_rate"]["value"] == pytest.approx(0.4)
    assert found["final"]["answer_accuracy"]["high"] == 1.0  # 0.9 + 0.25 is cut to 1


SHORT = Tags("<r>", "</r>", "<a>", "</a>")


def rows(*prompts, gold="18"):
    """Graded rows: for each prompt, its completions."""
    return [
        {
            "id": str(index),
            "answer": gold,
            **grade_completion(text, gold, SHORT, "strict"),
            "tokens": 4,
            "stop_reason": "limit" if text.endswith("…") else "end_of_turn",
        }
        for index, texts in enumerate(prompts)
        for text in texts
    ]


def test_one_completion_a_prompt_gives_wilson_rates():
    graded = rows(["<r>9*2=18</r><a>18</a>"], ["18 or 19"], ["it is 18.0"], ["…"])
    found = summarise_metrics(graded, "flexible")
    assert found["answer_accuracy"] == stats.wilson_rate(2, 4) == found["flexible_accuracy"]
    assert found["strict_accuracy"] == found["format_accuracy"] == found["truncated_rate"] == stats.wilson_rate(1, 4)
    assert found["samples"] == 1 and "pass_at_k" not in found and "maj_at_k" not in found


def test_several_completions_give_means_pass_and_majority():
    graded = rows(["18", "18.00", "3"], ["3", "3", "18"], ["none", "18", "…"], ["1", "2", "3"])
    found = summarise_metrics(graded, "flexible")
    assert found["answer_accuracy"]["value"] == pytest.approx((2 + 1 + 1 + 0) / 12)
    assert found["answer_accuracy"]["n"] == 4
    assert found["pass_at_k"]["value"] == 3 / 4  # the last prompt has none right
    assert found["maj_at_k"]["value"] == 2 / 4  # 18 = 18.00; a completion without a number does not vote
    assert found["truncated_rate"]["value"] == pytest.approx(1 / 12)


def test_the_published_cascade_votes_with_floats():
    """`18.`, `18` and `18.0` are one vote; gold `1,000` is never met."""
    found = summarise_metrics(rows(["it is 18.", "18", "18.0", "5", "5"]), "published_cascade")
    assert found["maj_at_k"]["value"] == 1
    found = summarise_metrics(rows(["it is 18.", "it is 18.", "3"], ["18", "3", "3"]), "published_cascade")
    assert found["maj_at_k"]["value"] == found["answer_accuracy"]["value"] == 1 / 2
    assert summarise_metrics(rows(["1000"] * 2, gold="1,000"), "published_cascade")["maj_at_k"]["value"] == 0
    assert summarise_metrics(rows(["1000"] * 2, gold="1,000"), "flexible")["maj_at_k"]["value"] == 1


def test_partial_accuracy_of_the_published_cascade_reads_its_text():
    texts = ("it is 19.", "19 eggs.", "$\\boxed{none}$ 18")
    graded = [grade_completion(text, "18", TAGS, "published_cascade") for text in texts]
    assert [row["published_cascade"] for row in graded] == ["19.", ".", "none"]
    assert [row["partial_correct"] for row in graded] == [True, False, False]


def test_rows_that_no_number_answers_count_apart():
    """They are in no rate, and in no group of rows."""
    counted = rows(["<r>9*2=18</r><a>18</a>"], ["18 or 19"])
    texts = ("<r>4/2=2</r><a>cannot be told</a>", "<r>4/2=2</r><a>0</a>", "Nobody knows.", "18 eggs")
    apart = [
        {"id": f"x{index}", "answer": None, "group": "x", "tokens": 90, "stop_reason": "limit"}
        | grade_row(text, {"answer": None}, SHORT, "strict")
        for index, text in enumerate(texts)
    ]
    assert [row["abstained"] for row in apart] == [True, False, True, False]
    assert [row["strict"] for row in apart] == [None, "0", None, None]
    assert not any(row[f"{name}_correct"] for row in apart for name in (*READINGS, "partial"))
    assert apart[0].keys() - counted[0].keys() == {"abstained", "group"}
    assert summarise_metrics([apart[0], *counted, *apart[1:]], "strict") == summarise_metrics(counted, "strict")


@pytest.mark.parametrize(
    ("completions", "exact", "words"),
    [
        (["<r>3-2=1</r><a>1</a>", "no"], 0.5, None),
        (["no", "neither"], 0.0, "in 2 completions the base model never wrote <r>, </r>, <a>, </a>. GRPO only"),
        (["<r>", "</r>"], 0.0, "never wrote <a>, </a>. GRPO only makes sampled completions more likely"),
        (["<a>1</a><r>3-2=1</r>"], 0.0, "wrote each tag, but never all four in order around reasoning and a number"),
        (["<r></r><a>1</a>"], 0.0, "wrote each tag, but never all four in order around reasoning and a number"),
    ],
)
def test_a_format_that_never_occurs_gives_a_warning(completions, exact, words):
    ids = [f"dev-{index}" for index in range(len(completions))]
    found = summarise_format(ids, completions, SHORT, warm_start=False)
    assert found["exact"]["value"] == exact
    assert (found["warning"] is None) if words is None else words in found["warning"]
    assert found["examples"][0] == {"id": "dev-0", "completion": completions[0]}
    assert summarise_format(ids, completions, SHORT, warm_start=True)["warning"] is None
