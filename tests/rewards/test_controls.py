"""Controls: what each rewards, from the seed alone."""

import collections
import re

import numpy as np
import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import controls, scoring
from gsm8k_grpo.rewards.answers import Tags
from gsm8k_grpo.rewards.training_rewards import TrainingRewards

DEMO = ["format_exact", "format_approximate", "answer", "number"]
TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
ROWS = [{"id": f"train-{index}", "prompt": f"{index}?", "answer": str(index)} for index in range(50)]


def rewards(control, seed=0, names=DEMO, rows=ROWS):
    training = {"rewards": names, "control": control, "custom_reward_limit_seconds": 60}
    return TrainingRewards(training, TAGS, rows, seed)


def completed(answer):
    """A completion in the exact format."""
    return f"<reasoning>20 - 2 = 18</reasoning>\n<answer>{answer}</answer>"


def right(rows):
    """A right answer to each row, in the exact format."""
    return [completed(row["answer"]) for row in rows]


def test_without_a_control_the_recipes_rewards_count():
    texts = right(ROWS[:4])
    assert rewards(None).score(ROWS[:4], texts, 0, 0) == scoring.score(DEMO, ROWS[:4], texts, TAGS)


def test_format_only_leaves_the_rewards_that_do_not_look_at_the_gold_answer():
    found = rewards("format_only").score(ROWS[:2], [completed("0"), "1"], 3, 0)
    assert found == {"format_exact": [3.0, 0.0], "format_approximate": [2.0, -2.0]}
    weighted = ["weighted_format", "weighted_logic", "weighted_accuracy", "self_correction", "fitting_length"]
    assert controls.gold_blind(weighted) == ["weighted_format", "weighted_logic", "fitting_length"]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["minigrpo"], "there is none among minigrpo; leave format_only out"),
        (["answer", "number"], "there is none among answer, number; leave format_only out"),
        (["format_exact", "mine.py:f"], "format_only cannot know whether mine.py:f looks at the gold answers that it"),
    ],
)
def test_format_only_needs_rewards_of_which_it_is_known_that_they_do_not_look(names, fault):
    with pytest.raises(PipelineError, match=f"^training.control: .*{re.escape(fault)}"):
        rewards("format_only", names=names)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shuffled_answers_are_all_answers_once_and_no_rows_own(count):
    rows = ROWS[:count]
    for seed in range(20):
        shuffled = {key: gold["answer"] for key, gold in controls.shuffled_golds(rows, seed).items()}
        assert sorted(shuffled.values()) == sorted(row["answer"] for row in rows)
        assert not [row for row in rows if shuffled[row["id"]] == row["answer"]]


def test_the_shuffle_follows_the_seed_and_one_row_cannot_be_shuffled():
    assert controls.shuffled_golds(ROWS, 0) == controls.shuffled_golds(ROWS, 0) != controls.shuffled_golds(ROWS, 1)
    with pytest.raises(PipelineError, match=r"^training\.control: shuffled_gold needs two rows or more"):
        rewards("shuffled_gold", rows=ROWS[:1])


def test_shuffled_gold_pays_for_another_rows_answer_and_leaves_the_rows_as_they_are():
    source, shuffled = rewards("shuffled_gold", seed=3), controls.shuffled_golds(ROWS, 3)
    before = [dict(row) for row in ROWS]
    assert max(source.score(ROWS, right(ROWS), 0, 0)["number"]) == 0.0
    theirs = [completed(shuffled[row["id"]]["answer"]) for row in ROWS]
    assert source.score(ROWS, theirs, 9, 1) == scoring.score(DEMO, ROWS, right(ROWS), TAGS)
    assert before == ROWS


def test_shuffled_gold_keeps_the_writing_of_the_other_row():
    rows = [ROWS[7] | {"answer": "1000", "answer_as_published": "1,000"}, ROWS[8]]
    source = rewards("shuffled_gold", names=["published_answer"], rows=rows)
    found = source.score(rows, [completed("8"), completed("1,000")], 0, 0)
    assert found == {"published_answer": [3.0, 3.0]}
    assert source.score(rows, [completed("8"), completed("1000")], 0, 0) == {"published_answer": [3.0, -0.5]}


def test_random_rewards_are_tosses_of_a_fair_coin_whatever_the_text():
    tossed = [value for step in range(200) for value in controls.random_rewards(0, step, 0, 64)]
    counted = collections.Counter(tossed)
    assert set(counted) == {0.0, 1.0}
    assert abs(counted[1.0] / len(tossed) - 0.5) < 4 * 0.5 / len(tossed) ** 0.5
    steps = np.array(tossed).reshape(200, 64)
    assert abs(np.corrcoef(steps[:-1].ravel(), steps[1:].ravel())[0, 1]) < 4 / len(tossed) ** 0.5
    source = rewards("random")
    assert source.score(ROWS, right(ROWS), 5, 0) == source.score(ROWS, ["x"] * 50, 5, 0)


def test_a_random_reward_is_a_function_of_seed_step_draw_and_index():
    def drawn(seed=0, step=4, draw=0, completions=64):
        return controls.random_rewards(seed, step, draw, completions)

    assert drawn() == drawn() and drawn(completions=16) == drawn()[:16]
    assert len({str(drawn(*each)) for each in ((0, 4), (1, 4), (4, 0), (0, 5), (0, 4, 1))}) == 5
    assert rewards("random", seed=1).score(ROWS, [""] * 50, 4, 0) == {"random": drawn(1, 4, 0, 50)}
