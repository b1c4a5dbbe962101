"""Finished batches survive a kill and belong to one evaluation."""

from gsm8k_grpo.evaluation.batch_log import BatchLog


def test_batches_come_back_for_the_same_inputs_only(tmp_path):
    first = BatchLog(tmp_path, "abc")
    assert first.batches == []
    first.append([{"id": "a", "completion": "ü"}], 0.5)
    again = BatchLog(tmp_path, "abc")
    assert again.batches == [{"rows": [{"id": "a", "completion": "ü"}], "seconds": 0.5}]
    assert (first.starts, again.starts) == (1, 2)
    other = BatchLog(tmp_path, "other")
    assert (other.batches, other.starts) == ([], 1)
    again.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_a_kill_cut_short_is_made_again(tmp_path):
    first = BatchLog(tmp_path, "x")
    for index in range(3):
        first.append([{"id": index}], 1.0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    again = BatchLog(tmp_path, "x")
    assert [batch["rows"][0]["id"] for batch in again.batches] == [0, 1]
    again.append([{"id": 9}], 1.0)
    assert [batch["rows"][0]["id"] for batch in BatchLog(tmp_path, "x").batches] == [0, 1, 9]
