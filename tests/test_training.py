"""Training's pure parts: which rows a step gets, the schedule, what happens to the log on a restart."""

import json

import pytest

from gsm8k_grpo import training
from gsm8k_grpo.errors import PipelineError

ROWS = [{"id": index} for index in range(10)]


def ids(step, seed=0):
    return [row["id"] for row in training.batch_rows(ROWS, step, prompts_per_step=3, seed=seed)]


def test_an_epoch_shows_each_row_at_most_once_and_the_next_in_another_order():
    first = [row for step in range(3) for row in ids(step)]
    second = [row for step in range(3, 6) for row in ids(step)]
    assert len(set(first)) == len(set(second)) == 9
    assert first != second
    assert ids(4) == ids(4) and ids(0) != ids(0, seed=1)


def test_fewer_rows_than_a_step_needs_are_an_error():
    with pytest.raises(PipelineError, match=r"training.prompts_per_step: 11 prompts a step, but only 10 rows"):
        training.batch_rows(ROWS, 0, prompts_per_step=11, seed=0)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_rate_rises_over_a_tenth_of_the_updates_and_falls_to_zero(iterations):
    schedule = training.learning_rate_schedule(
        {"learning_rate": 2.0, "warmup_fraction": 0.1, "max_steps": 100, "num_iterations": iterations}
    )
    rates = [float(schedule(step * iterations)) for step in (0, 5, 10, 55, 100)]
    assert rates == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0], abs=1e-6)


def test_a_restart_keeps_the_rows_up_to_the_checkpoint_and_drops_the_rest(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    assert training._truncate(log, 2) == [{"step": 1}, {"step": 2}]
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    with pytest.raises(PipelineError, match=r"metrics.jsonl: has not one row for each of the 3 steps"):
        training._truncate(log, 3)
