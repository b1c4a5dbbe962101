"""Other sets of problems: each published file's columns, files of any form, downloads, and what is refused."""

import csv
import hashlib
import json
import sys

import pyarrow
import pytest
from pyarrow import parquet

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.transfer import read_transfer_set
from gsm8k_grpo.data import github_file, retries
from gsm8k_grpo.data.transfer_rows import load_transfer_set
from loopback_hubs import COMMIT, ROOT, Repository

# One row of each published file, in its own columns; the problems are ours.
PLUS = {"perturbation_type": "digit expansion", "seed_question": "How many?", "seed_solution": "2", "seed_answer": "2"}
SYMBOLIC = {"instance": 3, "original_id": 9, "original_question": "?", "original_answer": "#### 1", "canary": "c"}
FILES = {
    "svamp": [
        {
            "ID": "1",
            "Body": "Ann had 3 figs",
            "Question": "How many?",
            "Equation": "( 3.0 )",
            "Answer": 3.0,
            "Type": "A",
        }
    ],
    "multiarith": [{"input": "Ann had 3 figs. How many?", "target": 3}],
    "gsm1k": [{"answer": "1,000", "question": 'Ann said "1,000 figs". How many?'}],
    "gsm_plus": [
        {"question": "Ann had 3 figs. How many?", "solution": "3 figs.\n#### 1/2", "answer": "1/2", **PLUS},
        {"question": "Ann had figs. How many?", "solution": "None", "answer": "None", **PLUS},
    ],
    "gsm_symbolic": [
        {"id": 7, "question": "Ann had 3 figs. How many?", "answer": "So <<1+2=3>>3.\n#### 3", **SYMBOLIC}
    ],
}
EXPECTED = {
    "svamp": {"question": "Ann had 3 figs. How many?", "solution": "( 3.0 )", "answer": "3"},
    "multiarith": {"question": "Ann had 3 figs. How many?", "solution": "", "answer": "3"},
    "gsm1k": {
        "question": 'Ann said "1,000 figs". How many?',
        "solution": "",
        "answer": "1000",
        "answer_as_published": "1,000",
    },
    "gsm_plus": {
        "question": "Ann had 3 figs. How many?",
        "solution": "3 figs.",
        "answer": "0.5",
        "answer_as_published": "1/2",
        "group": "digit expansion",
        "cluster": hashlib.sha256(b"How many?").hexdigest()[:12],
    },
    "gsm_symbolic": {
        "question": "Ann had 3 figs. How many?",
        "solution": "So <<1+2=3>>3.",
        "answer": "3",
        "cluster": "template 7",
    },
}
FORMS = {"svamp": "json", "multiarith": "jsonl", "gsm1k": "csv", "gsm_plus": "jsonl", "gsm_symbolic": "parquet"}


def write(path, rows):
    """Rows in the form that the file's name ends in."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = json.dumps(rows) if path.suffix == ".json" else "".join(f"{json.dumps(row)}\n" for row in rows)
        path.write_text(text, encoding="utf-8-sig")
    return str(path)


def load(**chosen):
    return load_transfer_set(read_transfer_set(json.dumps(chosen)))


@pytest.mark.parametrize("name", FILES)
def test_each_published_sets_columns_become_normalised_rows(tmp_path, name):
    rows, origin = load(name=name, path=write(tmp_path / f"copy.{FORMS[name]}", FILES[name]))
    assert rows[0] == {"id": f"{name}-00000", **EXPECTED[name]}
    assert origin["as_published"] is False and origin["licence"]
    without_number = [row for row in rows[1:] if row["answer"] is None]
    assert rows[1:] == without_number and len(without_number) == (name == "gsm_plus")
    assert origin["without_number"] == [row["id"] for row in without_number]


def test_rows_that_no_number_answers_are_checked_and_drawn_like_the_others(tmp_path):
    answered, unanswered = FILES["gsm_plus"]
    path = write(tmp_path / "plus.jsonl", [unanswered, *[answered] * 40, *[unanswered] * 9])
    rows, origin = load(name="gsm_plus", path=path)
    assert rows[0] == {
        "id": "gsm_plus-00000",
        "question": "Ann had figs. How many?",
        "solution": "",
        "answer": None,
        "group": "digit expansion",
        "cluster": EXPECTED["gsm_plus"]["cluster"],
    }
    assert (len(rows), len(origin["without_number"])) == (50, 10)
    drawn, origin = load(name="gsm_plus", path=path, rows=20)
    assert [row["id"] for row in drawn] == sorted({row["id"] for row in drawn})
    assert [row["id"] for row in drawn if row["answer"] is None] == origin["without_number"]
    assert (len(drawn), len(origin["without_number"])) == (25, 5)
    path = write(tmp_path / "faulty.jsonl", [answered, unanswered | {"question": 3}])
    with pytest.raises(PipelineError, match=r"faulty.jsonl of gsm_plus, row 2: 'question' is int, expected text"):
        load(name="gsm_plus", path=path)
    path = write(tmp_path / "none.jsonl", [unanswered])
    with pytest.raises(PipelineError, match=r"none.jsonl of gsm_plus: no row has a number as its answer"):
        load(name="gsm_plus", path=path)


def test_any_file_with_named_columns_is_a_set(tmp_path):
    path = write(tmp_path / "own.csv", [{"problem": f"{n} figs?", "result": f"{n}.0", "kind": "k"} for n in range(50)])
    chosen = {"name": "own", "path": path, "question": "problem", "answer": "result", "cluster": "kind"}
    rows, origin = load(**chosen)
    as_published = {"answer": "7", "answer_as_published": "7.0"}
    assert rows[7] == {"id": "own-00007", "question": "7 figs?", "solution": "", **as_published, "cluster": "k"}
    assert origin["as_published"] is None
    drawn = [row["id"] for row in load(**chosen, rows=5)[0]]
    assert len(set(drawn)) == 5 and drawn == sorted(drawn) != [row["id"] for row in load(**chosen, rows=5, seed=1)[0]]
    assert drawn == [row["id"] for row in load(**chosen, rows=5)[0]]
    # The form that JSON or parquet give a number is nobody's writing.
    path = write(tmp_path / "own.parquet", [{"question": "figs?", "answer": number} for number in (7.0, 1e16)])
    assert [(row["answer"], "answer_as_published" in row) for row in load(name="own", path=path)[0]] == [
        ("7", False),
        ("10000000000000000", False),
    ]
    # GSM8K's own columns and form of answers need no names.
    path = write(tmp_path / "own.jsonl", [{"question": "figs?", "answer": "1 + 1 = 2\n#### 2"}])
    assert load(name="own", path=path)[0][0]["solution"] == "1 + 1 = 2"


@pytest.mark.parametrize(
    ("rows", "chosen", "sentence"),
    [
        (
            [{"q": "?", "answer": "1"}],
            {},
            r"own.jsonl, row 1: no column 'question' \(found q, answer\); evaluation.tra",
        ),
        (
            [{"question": "?", "answer": "many"}],
            {},
            r"own.jsonl of own, row 1: the answer is 'many', expected one ",
        ),
        (
            [{"question": "?", "answer": None}],
            {},
            "row 1: the answer is 'None', expected one number; correct or remove",
        ),
        ([{"question": "?", "answer": 10**401}], {}, "row 1: the answer is '1000.*', expected one number"),
        ([{"question": " ", "answer": "1"}], {}, "own, row 1: the question is empty; write it, or remove the row"),
        (
            [{"question": "?", "answer": 1, "t": "a"}, {"question": "?", "answer": 1, "t": None}],
            {"cluster": "t"},
            r"own.jsonl, row 2: 't' is empty, expected a name or a number; correct or remove the row",
        ),
        ([{"question": "?", "answer": "1"}], {"rows": 2}, "evaluation.transfer: own: 2 rows wanted, but it has 1"),
        ([{"question": 3, "answer": "1"}], {}, "own, row 1: 'question' is int, expected text"),
    ],
)
def test_faulty_files_are_one_sentence(tmp_path, rows, chosen, sentence):
    with pytest.raises(PipelineError, match=sentence):
        load(name="own", path=write(tmp_path / "own.jsonl", rows), **chosen)


@pytest.mark.parametrize(
    ("name", "column", "value", "sentence"),
    [
        ("svamp", "Body", None, "'Body' is NoneType, expected text; correct or remove the row"),
        ("svamp", "Answer", None, "the answer is 'None', expected one number; correct or remove the row"),
        ("svamp", "Answer", 10**401, "the answer is '1000.*', expected one number; correct or remove the row"),
        ("gsm_plus", "solution", None, "'solution' is NoneType, expected text; correct or remove the row"),
        ("gsm_plus", "perturbation_type", None, "'perturbation_type' is empty, expected a name or a number"),
        ("gsm_symbolic", "answer", 3, "'answer' is int, expected text; correct or remove the row"),
        ("gsm_symbolic", "id", None, "'id' is empty, expected a name or a number; correct or remove the row"),
    ],
)
def test_a_fault_in_a_published_sets_own_columns_is_one_sentence(tmp_path, name, column, value, sentence):
    good = FILES[name][0]
    path = write(tmp_path / "copy.jsonl", [good, good | {column: value}])
    with pytest.raises(PipelineError, match=rf"copy.jsonl.*, row 2: {sentence}"):
        load(name=name, path=path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "question,answer\n1 fig?,1\nAnn had 1,000,5\n",
            "own.csv, row 2: expected 2 cells, found 3; put a text that has",
        ),
        (
            "question,answer\nAnn had\n",
            "own.csv, row 1: expected 2 cells, found 1; put a text that has commas in quotes",
        ),
        ("question,answer,answer\n1 fig?,1,2\n", "own.csv: two columns are named 'answer'; rename one"),
        ('question,answer\n1 fig?,1\n"Ann" had,5\n', r"own.csv: cannot be read as CSV \(',' expected .* line 3\)"),
        ("question,answer\n", "own.csv: no rows; expected a list of rows, each with its columns"),
        ("", "own.csv: no rows; expected a list of rows, each with its columns"),
    ],
)
def test_faulty_csv_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(PipelineError, match=sentence):
        load(name="own", path=str(tmp_path / "own.csv"))


def test_a_faulty_row_in_a_list_is_named(tmp_path):
    path = write(tmp_path / "own.json", [{"question": "?", "answer": 1}, 5])
    with pytest.raises(PipelineError, match=r"own.json, row 2: int, expected an object with its columns; correct or"):
        load(name="own", path=path)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"name": "own"}, "the path of a file, or the name of a published set"),
        (
            {"name": "svamp", "handle": "a/b", "path": "c.csv"},
            r"path \(a file there\) and revision \(a commit\) beside",
        ),
        ({"name": "svamp", "path": "c.csv", "question": "q"}, "question and answer too, where columns of a published"),
        ({"name": "own", "path": "c.csv", "handle": "a/b", "revision": "main"}, "a commit of 40 hexadecimal digits"),
        ({"name": "own", "path": "c.txt"}, "c.txt is no file; correct its path"),
    ],
)
def test_faulty_items_are_one_sentence(chosen, sentence):
    with pytest.raises(PipelineError, match=sentence):
        load(**chosen)


def test_a_repositorys_own_file_is_downloaded_and_checked(hub, tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, hub.environment()[name])
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0)
    content, target = b'{"question": "?", "answer": "1"}\n', tmp_path / "got" / "set.jsonl"
    hub.github[f"/own/sets/{COMMIT}/data/set.jsonl"] = content

    def fetch(checksum):
        github_file.fetch("own/sets", COMMIT, "data/set.jsonl", checksum, target, "name a copy")

    hub.damaged["set.jsonl"] = 1  # the first answer has another checksum: it is asked for again
    of_git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    for checksum in (hashlib.sha256(content).hexdigest(), of_git):
        fetch(checksum)
        assert target.read_bytes() == content
        target.unlink()
    failed = "data/set.jsonl of own/sets could not be fetched from GitHub "
    with pytest.raises(PipelineError, match=rf"{failed}\(a wrong checksum\): check the connection, or name a copy"):
        fetch("0" * 64)
    del hub.github[f"/own/sets/{COMMIT}/data/set.jsonl"]
    with pytest.raises(PipelineError, match=rf"{failed}\(status 404\)"):
        fetch(of_git)
    assert not target.exists()
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        PipelineError, match=r"arkilpatel/SVAMP on GitHub: HF_HUB_OFFLINE is set.* name a copy of it on"
    ):
        load(name="svamp")
    assert len(hub.requests) == asked


def test_the_stage_gets_a_set_from_hugging_face_at_a_pinned_commit(hub, tmp_path):
    content = b"problem,result\nhow many figs?,4\n"
    hub.huggingface["dataset/own/sets"] = Repository({"data/set.csv": content, "other.bin": b"not wanted"})
    chosen = {"name": "own", "handle": "own/sets", "revision": COMMIT, "path": "data/set.csv"}
    chosen |= {"question": "problem", "answer": "result"}
    command = [sys.executable, str(ROOT / "scripts/transfer_rows.py"), "--chosen", json.dumps(chosen)]
    status, text = hub.run([*command, "--output", str(tmp_path / "data")])
    assert status == 0, text
    row = {"id": "own-00000", "question": "how many figs?", "solution": "", "answer": "4"}
    assert json.loads((tmp_path / "data/test.jsonl").read_text()) == row
    manifest = json.loads((tmp_path / "data/dataset.json").read_text())
    origin = {"source": "huggingface", "handle": "own/sets", "commit": COMMIT}
    assert origin.items() <= manifest["origin"].items() and manifest["rows"] == {"test": 1}
    assert manifest["origin"]["sha256"] == {"set.csv": hashlib.sha256(content).hexdigest()}
