"""Published rows become this pipeline's rows: single cases, and all of GSM8K."""

import json

import pytest

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import gsm8k, sources
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

SHUFFLED = (3, 0, 7, 2, 4, 6, 1, 5, 8)  # nine rows, `datasets` 5.2.0


def test_a_published_row_is_normalised():
    row = {"question": "How many?", "answer": "He sells 2*500=$<<2*500=1000>>1000.\n#### 1,000", "extra": 1}
    assert gsm8k.normalise(row, "train-00007", "here") == {
        "id": "train-00007",
        "question": "How many?",
        "solution": "He sells 2*500=$<<2*500=1000>>1000.",
        "answer": "1000",
        "answer_as_published": "1,000",
    }


def test_a_row_keeps_its_group():
    row = {"question": "How many?", "answer": "Two.\n#### 2", "group": "held_out"}
    assert gsm8k.normalise(row, "test-00000", "here")["group"] == "held_out"


@pytest.mark.parametrize(
    ("final", "answer"),
    [
        ("#### 18", "18"),
        ("####18", "18"),
        ("#### -3 ", "-3"),
        ("#### $2.50", "2.5"),
        ("#### $-1,000.", "-1000"),
        ("#### 3/4", "0.75"),
        ("#### 1\n#### 2", "2"),
    ],
)
def test_the_number_after_the_last_hashes_is_the_answer(final, answer):
    assert gsm8k.normalise({"question": "q", "answer": f"text\n{final}"}, "id", "here")["answer"] == answer


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"question": "q", "answer": "Paris"}, "'answer' is 'Paris', expected a number such as 18, or text that is"),
        ({"question": "q", "answer": "18 or 19"}, "'answer' is '18 or 19', expected a number such as 18"),
        ({"question": "q", "answer": None}, "'answer' is None, expected a number such as 18"),
        ({"question": "q", "answer": True}, "'answer' is True, expected a number such as 18"),
        ({"question": "q", "answer": float("nan")}, "'answer' is nan, expected a number such as 18"),
        ({"question": "q", "answer": 18, "solution": 9}, "'solution' is int, expected text; or leave it out"),
        ({"question": "q", "answer": "#### - 5"}, "'- 5' after '####' is not one number"),
        (
            {"question": "q", "answer": "#### " + "1" * 1_000_000},
            "'1111111111111111111111111111111111111111' after '####'",
        ),
        (
            {"question": "q", "answer": "#### " + "1" * 1_000_000 + "x"},
            "'1111111111111111111111111111111111111111' after",
        ),
        ({"question": "q", "answer": "#### A1"}, "'A1' after '####' is not one number"),
        ({"question": "half \ud800", "answer": "#### 1"}, "'question' contains half of a character"),
        ({"question": "q", "answer": "#### many"}, "'many' after '####' is not one number"),
        ({"question": "q", "answer": "#### 1 or 2"}, "'1 or 2' after '####' is not one number"),
        ({"question": "q", "answer": "#### "}, "'' after '####' is not one number"),
        ({"question": None, "answer": "#### 18"}, "'question' is NoneType, expected text"),
        ({"question": "q", "answer": "#### 18", "group": 1}, "'group' is int, expected text"),
        ({"question": "q", "answer": "#### 18", "group": " "}, "'group' is empty; name the row's group"),
    ],
)
def test_a_faulty_row_is_refused_by_file_and_row(tmp_path, row, fault):
    path = tmp_path / "train.jsonl"
    good = json.dumps({"question": "q", "answer": "#### 18"})
    path.write_text(f"{good}\n{json.dumps(row)}\n")
    with pytest.raises(PipelineError) as refused:
        sources.jsonl({"path": tmp_path}, None)
    assert str(refused.value).startswith(f"{path}, row 2: {fault}")


def test_reasoning_is_the_solution_without_annotations():
    assert gsm8k.strip_annotations("16-3=<<16-3=13>>13 and 13*2=<<13*2=26>>26\n") == "16-3=13 and 13*2=26"


@pytest.mark.parametrize(
    ("split", "size", "commas", "negative", "zeros", "longest", "first", "last"),
    [("train", 7473, 79, 3, 1, 985, "72", "train-07472"), ("test", 1319, 14, 2, 0, 848, "18", "test-01318")],
    ids=["train", "test"],
)
def test_all_of_gsm8k_is_read_as_published(published, split, size, commas, negative, zeros, longest, first, last):
    path = published / f"{split}.jsonl"
    raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    finals = [row["answer"].split("####")[1].strip() for row in raw]
    rows = gsm8k.normalise_rows(raw, split, str(path))

    assert len(rows) == size
    assert [row["answer"] for row in rows] == [str(int(final.replace(",", ""))) for final in finals]
    assert [row["question"] for row in rows] == [row["question"] for row in raw]
    assert [row["id"] for row in rows] == [f"{split}-{index:05d}" for index in range(size)]
    assert (rows[0]["answer"], rows[-1]["id"]) == (first, last)
    assert sum("," in final for final in finals) == commas
    assert sum(row["answer"].startswith("-") for row in rows) == negative
    assert sum(row["answer"] == "0" for row in rows) == zeros
    assert max(len(row["question"]) for row in rows) == longest


def test_both_readings_of_each_published_solution_give_its_answer(published):
    tags = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    for split in ("train", "test"):
        for line in (published / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            text = json.loads(line)["answer"]
            gold = int(text.split("####")[1].replace(",", ""))
            assert answers.strict(text, tags) == answers.flexible(text) == gold
            assert "<<" not in gsm8k.strip_annotations(text) and ">>" not in gsm8k.strip_annotations(text)


@pytest.mark.parametrize("split", ["train", "test"])
def test_published_rows_are_recognised_with_any_line_ends(published, split, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (published / f"{split}.jsonl").read_bytes().replace(b"\n", b"\r\n"))
    rows = files.read_jsonl(path)
    assert gsm8k.is_published(rows, split)
    assert not gsm8k.is_published(rows[:-1], split) and not gsm8k.is_published(rows[::-1], split)


@pytest.mark.parametrize(
    ("answer", "plain", "as_published"),
    [
        (18, "18", None),
        (-7, "-7", None),
        (2.5, "2.5", None),
        (18.0, "18", None),
        (1e20, "100000000000000000000", None),
        (0.1, "0.1", None),
        ("18", "18", None),
        (" 1,000 ", "1000", "1,000"),
        ("$3.50", "3.5", "$3.50"),
        ("It is 17.\n#### 18", "18", None),
    ],
)
def test_rows_of_other_data_sets_may_have_plain_answers(tmp_path, answer, plain, as_published):
    for split in ("train", "test"):
        row = {"question": f"{split}?", "answer": answer, "solution": "9*2=18", "group": "mine"}
        files.write_jsonl(tmp_path / f"{split}.jsonl", [row])
    (row,), _ = sources.jsonl({"path": tmp_path}, None)[0].values()
    assert (row["answer"], row.get("answer_as_published"), row["group"]) == (plain, as_published, "mine")
    assert row["solution"] == ("It is 17." if isinstance(answer, str) and "####" in answer else "9*2=18")


def test_local_rows_are_compared_with_gsm8k_and_shared_questions_are_a_warning(tmp_path, capsys):
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(4)]
    files.write_jsonl(tmp_path / "train.jsonl", rows)
    files.write_jsonl(tmp_path / "test.jsonl", rows[2:])
    sources.jsonl({"path": tmp_path}, None)
    said = capsys.readouterr().out
    assert "train.jsonl: 4 rows, not the 7,473 of GSM8K's train as published" in said
    assert "WARNING: dataset.path: 2 questions are in test.jsonl and in train.jsonl" in said
    files.write_jsonl(tmp_path / "test.jsonl", [{"question": "9?", "answer": "#### 9"}])
    sources.jsonl({"path": tmp_path}, None)
    assert "WARNING" not in capsys.readouterr().out


def test_rows_are_shuffled_before_they_are_limited(tmp_path):
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(9)]
    for split in ("train", "test"):
        files.write_jsonl(tmp_path / f"{split}.jsonl", rows)
    chosen = {"source": "jsonl", "path": tmp_path, "train_rows": 6, "test_rows": None, "shuffle_seed": 42}
    found, _ = sources.load_rows(chosen, None)
    kept, _ = sources.load_rows(chosen | {"shuffle_seed": None}, None)
    # The order of `Dataset.from_list(rows).shuffle(seed=42)`.
    assert [row["id"] for row in found["test"]] == [f"test-{n:05d}" for n in SHUFFLED]
    assert [row["id"] for row in found["train"]] == [f"train-{n:05d}" for n in SHUFFLED[:6]]
    assert [row["answer"] for row in kept["train"]] == list("012345")
