"""What the benchmark of faults calls wrong."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from fault_project import EVALUATED, bits, conclude, differences

ROWS = Path(EVALUATED).with_name("completions.jsonl")


@pytest.fixture
def whole(tmp_path):
    """An evaluation."""
    folder = tmp_path / "whole"
    (folder / EVALUATED).parent.mkdir(parents=True)
    (folder / EVALUATED).write_text(json.dumps({"rate": 0.5, "seconds": 3, "provenance": {"commit": "x"}}))
    (folder / ROWS).write_text('{"id": 1}\n')
    return folder


@pytest.mark.parametrize(
    ("status", "text", "rows", "end"),
    [
        (0, "Nothing to be done", '{"id": 1}\n', "same bits"),
        (0, "Nothing to be done", '{"id": 2}\n', "wrong"),
        (0, "made again: completions.jsonl changed", '{"id": 2}\n', "sentence"),
        (1, "ERROR: results/x: is damaged; make it again", '{"id": 1}\n', "sentence"),
        (1, "ERROR: x\nTraceback (most recent call last)\n  boom", '{"id": 1}\n', "traceback"),
        (0, "Traceback (most recent call last)\n  boom", '{"id": 1}\n', "traceback"),
        (1, "Exiting because a job execution failed.", '{"id": 1}\n', "no reason"),
        (None, "", '{"id": 1}\n', "hang"),
    ],
)
def test_each_end_has_its_name(whole, tmp_path, status, text, rows, end):
    folder = shutil.copytree(whole, tmp_path / "disturbed")
    (folder / ROWS).write_text(rows)
    assert conclude(whole, folder, EVALUATED, status, text, ROWS, b"other")["end"] == end


def test_a_damaged_file_that_nobody_named_is_wrong_although_no_figure_differs(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "disturbed")
    page = Path("results/report.html")
    (folder / page).write_bytes(b"damaged")
    assert conclude(whole, folder, EVALUATED, 0, "Nothing to be done", page, b"damaged")["end"] == "wrong"
    assert conclude(whole, folder, EVALUATED, 0, "Nothing to be done", page, b"mended since")["end"] == "same bits"


def test_when_and_where_something_was_made_is_no_bit_of_it(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "disturbed")
    (folder / EVALUATED).write_text(json.dumps({"rate": 0.5, "seconds": 4, "provenance": {"commit": "y"}}))
    assert differences(bits(whole, EVALUATED), bits(folder, EVALUATED)) == []
    (folder / EVALUATED).write_text(json.dumps({"rate": 0.25, "seconds": 3}))
    assert differences(bits(whole, EVALUATED), bits(folder, EVALUATED)) == [EVALUATED]
