"""Finished rows survive a kill and belong to one evaluation."""

from gsm8k_grpo.evaluation.row_log import RowLog


def test_rows_come_back_for_the_same_inputs_only(tmp_path):
    first = RowLog(tmp_path, "abc")
    assert (first.rows, first.seconds) == ([], 0)
    first.append([{"id": "a", "completion": "ü"}, {"id": "b"}], 0.5)
    first.append([{"id": "c"}], 0.25)
    again = RowLog(tmp_path, "abc")
    assert again.rows == first.rows == [{"id": "a", "completion": "ü"}, {"id": "b"}, {"id": "c"}]
    assert again.seconds == first.seconds == 0.75
    assert (first.starts, again.starts) == (1, 2)
    other = RowLog(tmp_path, "other")
    assert (other.rows, other.starts) == ([], 1)
    again.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_row_whose_verdict_was_altered_is_made_again_and_no_other(tmp_path, capsys):
    first = RowLog(tmp_path, "x")
    for index in range(3):
        first.append([{"id": index, "strict_correct": False}], 1.0)
    (path,) = tmp_path.iterdir()
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace("false", "true"), *lines[3:]]))
    assert [row["id"] for row in RowLog(tmp_path, "x").rows] == [0, 2]
    assert f"{path}, line 3: is damaged (its hash differs); its rows are completed" in capsys.readouterr().out


def test_rows_that_a_kill_cut_short_are_made_again(tmp_path):
    first = RowLog(tmp_path, "x")
    for index in range(3):
        first.append([{"id": index}], 1.0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    again = RowLog(tmp_path, "x")
    assert ([row["id"] for row in again.rows], again.seconds) == ([0, 1], 2.0)
    again.append([{"id": 9}], 1.0)
    assert [row["id"] for row in RowLog(tmp_path, "x").rows] == [0, 1, 9]
