"""`scripts/grade.py` grades completions of any program, and names each fault of a file in one sentence."""

import itertools
import json
import os

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.rewards.answers import Tags

PLAIN = "She sells 16 - 3 - 4 = 9 eggs and makes 9 * 2 = $18.\n#### 18"
TAGGED = "<reasoning>16 - 7 = 9, 9 * 2 = 18</reasoning>\n<answer>18</answer>"
RATES = ("partial_accuracy", "format_accuracy", "strict_accuracy", "flexible_accuracy", "cascade_accuracy")


@pytest.fixture
def grade(run_script, tmp_path):
    """Grades completions against gold answers (rows, or the bytes of a file); returns (metrics, rows)."""

    def run(completions, golds, *options):
        paths = []
        for name, given in (("completions.jsonl", completions), ("gold.jsonl", golds)):
            content = given if isinstance(given, bytes) else "".join(json.dumps(row) + "\n" for row in given).encode()
            (tmp_path / name).write_bytes(content)
            paths.append(tmp_path / name)
        output = tmp_path / "graded"
        inputs = {"--completions": paths[0], "--answers": paths[1]}
        inputs = {name: path for name, path in inputs.items() if name not in options}
        run_script("grade", *itertools.chain(*inputs.items()), "--output", output, *options)
        lines = (output / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        return json.loads((output / "metrics.json").read_text()), [json.loads(line) for line in lines]

    return run


@pytest.fixture
def refused(grade, tmp_path):
    """The error message, without the folder's name; nothing is written."""

    def run(*arguments):
        with pytest.raises(PipelineError) as error:
            grade(*arguments)
        assert not (tmp_path / "graded").exists()
        sentence = str(error.value)
        assert "\n" not in sentence and len(sentence.replace(str(tmp_path), "")) < 500
        return sentence.replace(f"{tmp_path}/", "")

    return run


def completed(*ids, text=PLAIN):
    return [{"id": identity, "completion": text} for identity in ids]


def gold(*ids, answer="18"):
    return [{"id": identity, "answer": answer} for identity in ids]


def test_each_row_has_all_readings_and_the_metrics_all_rates(grade):
    completions = [
        {"id": "plain", "completion": PLAIN, "model": "any"},
        {"id": "tagged", "completion": TAGGED},
        {"id": "boxed", "completion": r"It is $\boxed{18}$, as 9 and 9."},
        {"id": "none", "completion": ""},
    ]
    metrics, rows = grade(completions, gold("tagged", "plain", "none", "boxed"))
    assert [row["id"] for row in rows] == ["plain", "tagged", "boxed", "none"]
    read = {row["id"]: (row["strict"], row["flexible"], row["cascade"]) for row in rows}
    assert read == {
        "plain": ("18", "18", "18"),
        "tagged": ("18", "18", "18"),
        "boxed": (None, "9", "18"),
        "none": (None, None, None),
    }
    judged = {row["id"]: (row["strict_correct"], row["flexible_correct"], row["cascade_correct"]) for row in rows}
    assert judged["boxed"] == (False, False, True) and judged["plain"] == (True, True, True)
    assert {name: metrics[name]["value"] for name in RATES} == {
        "partial_accuracy": 0.5,
        "format_accuracy": 0.25,
        "strict_accuracy": 0.5,
        "flexible_accuracy": 0.5,
        "cascade_accuracy": 0.75,
    }
    assert all(metrics[name].keys() == {"value", "low", "high", "n"} and metrics[name]["n"] == 4 for name in RATES)
    assert (metrics["rows"], metrics["rows_without_completion"]) == (4, 0)
    assert metrics["tags"] == ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]


def test_rows_are_graded_like_those_of_the_stage_evaluate(grade):
    _, rows = grade(completed("a", text=TAGGED), gold("a", answer="17"))
    tags = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    assert rows == [{"id": "a", **grade_completion(TAGGED, "17", tags, "strict")}]
    assert rows[0]["partial_correct"] and not rows[0]["strict_correct"]


def test_how_much_reasoning_is_enough_can_be_given(grade):
    def has_format(*options):
        return grade(completed("a", text=TAGGED), gold("a"), *options)[1][0]["format_correct"]

    assert has_format() and has_format("--reasoning", "1", "0") and has_format("--reasoning", "2", "0")
    assert not has_format("--reasoning", "3", "0") and not has_format("--reasoning", "0", "1")
    assert grade(completed("a"), gold("a"), "--reasoning", "3", "0")[0]["reasoning"] == [3, 0]


@pytest.mark.parametrize("counts", [("0", "0"), ("-1", "6")])
def test_reasoning_that_nothing_can_be_is_refused(refused, counts):
    sentence = refused(completed("a"), gold("a"), "--reasoning", *counts)
    assert sentence.startswith(f"--reasoning: is {' '.join(counts)}, expected two counts")


def test_gold_with_a_comma_is_never_right_to_the_published_cascade(grade):
    _, rows = grade(completed("a", "b", text="1000"), [*gold("a", answer="1,000"), *gold("b", answer="1000")])
    assert [row["flexible_correct"] for row in rows] == [True, True]
    assert [row["published_cascade_correct"] for row in rows] == [False, True]


def test_other_tags_can_be_given(grade):
    text = "<think>2</think><SOLUTION>4</SOLUTION>, or 5"
    tags = ("--tags", "<think>", "</think>", "<SOLUTION>", "</SOLUTION>")
    _, rows = grade(completed(1, text=text), gold(1), *tags)
    assert (rows[0]["strict"], rows[0]["flexible"]) == ("4", "5")


@pytest.mark.parametrize("tags", [("<a>", "</a>", "<a>", "</b>"), ("a", "b", "xax", "d"), ("", "b", "c", "d")])
def test_tags_that_contain_each_other_are_refused(refused, tags):
    assert refused(completed(1), gold(1), "--tags", *tags).startswith(f"--tags: {tags[0]!r} is a part of another tag")


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (18, "18"),
        (-7, "-7"),
        (2.5, "2.5"),
        (0.1, "0.1"),
        ("18", "18"),
        (" 1,000\n", "1000"),
        ("$5.00", "5"),
        ("3/4", "0.75"),
        ("−7", "-7"),
        ("50%", "50"),
        ("2+2=<<2+2=4>>4\n#### 4", "4"),
        ("#### 1\n#### 1,002", "1002"),
    ],
)
def test_gold_answers_are_numbers_or_published_solutions(grade, answer, read):
    _, rows = grade(completed("a", text=f"<answer>{read}</answer>"), gold("a", answer=answer))
    assert rows[0]["strict_correct"] and rows[0]["flexible_correct"] and rows[0]["strict"] == read


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (None, "None"),
        (True, "True"),
        ([18], "[18]"),
        (float("nan"), "'nan'"),
        ("", "''"),
        ("eighteen", "'eighteen'"),
        ("18 or 19", "'18 or 19'"),
        ("2+2=4", "'2+2=4'"),
        ("2+2=4\n####", "'2+2=4\\n####'"),
        ("\ud800", "'\\ud800'"),
        ("1" * 1_000_000 + "x", repr("1" * 40)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_gold_that_is_not_one_number_is_an_error_with_file_row_and_id(refused, answer, shown):
    sentence = refused(completed("a", "b"), gold("a") + gold("b", answer=answer))
    assert sentence.startswith(f"gold.jsonl, row 2 (id 'b'): 'answer' is {shown}, expected one number such as 18, or ")


def test_ids_match_as_text_or_numbers(grade):
    _, rows = grade(completed(7, "08"), gold("7", "08"))
    assert [row["id"] for row in rows] == [7, "08"]


@pytest.mark.parametrize(
    ("completions", "golds", "sentence"),
    [
        (
            completed("a", "b"),
            gold("a"),
            "completions.jsonl: gold.jsonl has no row with id 'b', only ids such as 'a'; give both files",
        ),
        (
            completed(*range(100)),
            gold(*range(100, 200)),
            "completions.jsonl: gold.jsonl has no row with ids '0', '1', '2', '3', '4' and 95 more, only ids such as",
        ),
        (
            completed("a"),
            gold("a", "b", "c"),
            "completions.jsonl: has no completion for ids 'b', 'c' of gold.jsonl; add them, or give --subset",
        ),
        (completed("a", "b", "a"), gold("a", "b"), "completions.jsonl: several rows have the same id: id 'a'; "),
        (completed(1, "1"), gold(1), "completions.jsonl: several rows have the same id: id '1'"),
        (completed("a"), gold("a", "a"), "gold.jsonl: several rows have the same id: id 'a'"),
        (
            completed(*list(range(2000)) * 2),
            gold("a"),
            "completions.jsonl: several rows have the same id: ids '0', '1', '2', '3', '4' and 1,995 more; ",
        ),
        (completed("x" * 1000), gold("a"), f"completions.jsonl: gold.jsonl has no row with id '{'x' * 80}', only"),
        (completed("a\nb"), gold("a"), r"completions.jsonl: gold.jsonl has no row with id 'a\nb', only"),
        (completed(None), gold("a"), "completions.jsonl, row 1: 'id' is NoneType, expected text or a whole number"),
        (completed("a", True), gold("a"), "completions.jsonl, row 2: 'id' is bool, expected text or a whole number"),
        (completed(1.5), gold("a"), "completions.jsonl, row 1: 'id' is float, expected"),
        (completed("\ud800"), gold("a"), "completions.jsonl, row 1: 'id' has half a character"),
        (
            completed("a") + completed("b", text=None),
            gold("a", "b"),
            "completions.jsonl, row 2 (id 'b'): 'completion' is NoneType, expected text; write an empty text",
        ),
        (completed("a", text=["18"]), gold("a"), "completions.jsonl, row 1 (id 'a'): 'completion' is list, expected"),
        ([{"id": "a", "text": "18"}], gold("a"), "completions.jsonl, line 1: no key 'completion' (found id, text)"),
        (completed("a"), [{"id": "a", "gold": "18"}], "gold.jsonl, line 1: no key 'answer' (found gold, id)"),
        (b"", gold("a"), "completions.jsonl: no rows; expected one JSON object a line"),
        (completed("a"), b"\n", "gold.jsonl: no rows; expected one JSON object a line"),
        (b'{"id": 1, "completion": "\xff"}', gold("a"), "completions.jsonl, line 1: byte 0xff is not UTF-8"),
        (b'{"id": 1, "completion": "cut', gold("a"), "completions.jsonl, line 1: not valid JSON"),
    ],
)
def test_a_fault_is_one_sentence_with_file_row_and_the_first_ids(refused, completions, golds, sentence):
    assert refused(completions, golds).startswith(sentence)


def test_a_subset_is_graded_on_request_with_its_own_n(grade):
    metrics, rows = grade(completed("a", "b"), gold("a", "b", "c", "d"), "--subset")
    assert len(rows) == 2 and (metrics["rows"], metrics["rows_without_completion"]) == (2, 2)
    assert all(metrics[name]["n"] == 2 for name in RATES)


def test_a_subset_needs_gold_for_each_completion(refused):
    assert "no row with id 'c'" in refused(completed("a", "c"), gold("a", "b"), "--subset")


def test_windows_files_lone_surrogates_and_megabytes_are_graded(grade):
    completions = "\ufeff" + "\r\n".join(
        json.dumps({"id": identity, "completion": text})
        for identity, text in (
            ("é", "half \ud800 of 18"),
            ("long", "1 + 1 = 2\r\n" * 90_000 + "#### 18\r\n"),
            ("noise", "<<<<" * 250_000),
            ("digits", "1" * 1_000_000),
            ("boxes", r"\boxed{" * 140_000),
            ("binary", rf"\frac{{1}}{{{2**1300}}}"),
        )
    )
    metrics, rows = grade(completions.encode(), gold("é", "long", "noise", "digits", "boxes", "binary"))
    assert [row["flexible"] and row["flexible"][:2] for row in rows] == ["18", "18", None, None, None, "0."]
    assert rows[1]["strict_correct"] and metrics["seconds"] < 10


@pytest.mark.parametrize("path", ["graded/rows.jsonl", "graded/../graded/rows.jsonl"])
def test_the_graded_files_are_not_overwritten(grade, tmp_path, path):
    (tmp_path / "graded").mkdir()
    (tmp_path / "graded" / "rows.jsonl").write_text(json.dumps(gold("a")[0]))
    with pytest.raises(PipelineError, match="would overwrite the graded files; name another folder"):
        grade(completed("a"), gold("a"), "--answers", str(tmp_path / path))


def test_a_pipe_is_refused_because_it_cannot_be_hashed(grade, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PipelineError, match=r"--answers: .*pipe is a pipe or device, .*; give a file"):
        grade(completed("a"), gold("a"), "--answers", str(tmp_path / "pipe"))


def test_an_output_that_is_a_file_is_refused(grade, tmp_path):
    (tmp_path / "graded").write_text("")
    with pytest.raises(PipelineError, match="graded is a file, expected a folder"):
        grade(completed("a"), gold("a"))


def test_every_published_solution_is_right(grade, published):
    lines = (published / "test.jsonl").read_text(encoding="utf-8").splitlines()
    solutions = [json.loads(line)["answer"] for line in lines]
    completions = [{"id": index, "completion": solution} for index, solution in enumerate(solutions)]
    golds = [{"id": index, "answer": solution} for index, solution in enumerate(solutions)]
    metrics, _ = grade(completions, golds)
    for name in ("strict_accuracy", "flexible_accuracy", "cascade_accuracy"):
        assert (metrics[name]["value"], metrics[name]["n"]) == (1.0, 1319)
