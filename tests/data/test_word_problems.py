"""Generated word problems: arithmetic checked by an independent reading of question and solution."""

import operator
import re
from collections import Counter

import pytest

from gsm8k_grpo.data import gsm8k, word_problems
from gsm8k_grpo.rewards.answers import Reasoning

ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul}
TOLD = {"has": None, "buys": "+", "finds": "+", "gives away": "-", "loses": "-", "gets": "*"}


@pytest.fixture(scope="module")
def rows():
    train, test = word_problems.generate_problems(seed=0, train_rows=3000, test_rows=500)
    return train, test


def test_the_same_seed_makes_the_same_rows_and_another_makes_others(rows):
    assert word_problems.generate_problems(0, 3000, 500) == rows
    assert word_problems.generate_problems(1, 3000, 500) != rows


def test_no_question_comes_twice_and_train_and_test_share_none(rows):
    train, test = rows
    assert (len(train), len(test)) == (3000, 500)
    assert len({row["question"] for row in train + test}) == 3500


def test_test_rows_do_not_depend_on_how_many_train_rows_there_are(rows):
    train, test = rows
    fewer, same = word_problems.generate_problems(0, 10, 500)
    assert same == test
    assert fewer == train[:10]


def test_every_solution_counts_as_reasoning(rows):
    solutions = [row["answer"].rpartition("####")[0] for split in rows for row in split]
    assert all(Reasoning().is_in(gsm8k.strip_annotations(solution)) for solution in solutions)


def test_every_solution_is_a_chain_of_right_equations_up_to_the_answer(rows):
    steps = Counter()
    for row in rows[0] + rows[1]:
        *lines, final = row["answer"].split("\n")
        value = None
        for line in lines:
            left, sign, right, result = re.search(r"<<(\d+)([-+*])(\d+)=(\d+)>>", line).groups()
            assert line == f"{left}{sign}{right}=<<{left}{sign}{right}={result}>>{result}"
            assert ARITHMETIC[sign](int(left), int(right)) == int(result)
            assert value in (None, int(left))
            value = int(result)
            assert 1 <= value <= word_problems.LARGEST_VALUE
        assert final == f"#### {value}"
        steps[len(lines)] += 1
    assert set(steps) == {1, 2, 3}
    assert min(steps.values()) > 100


def test_every_question_tells_what_its_solution_calculates(rows):
    for row in rows[0] + rows[1]:
        value = None
        for verb, operand in re.findall(rf"({'|'.join(TOLD)}) (\d+)", row["question"]):
            value = int(operand) if verb == "has" else ARITHMETIC[TOLD[verb]](value, int(operand))
        assert row["answer"].endswith(f"#### {value}")
        assert row["answer"].count("<<") == len(re.findall(r"\d+", row["question"])) - 1


def test_generated_rows_are_in_gsm8ks_own_format(rows):
    for index, row in enumerate(rows[1]):
        made = gsm8k.normalise(row, f"test-{index:05d}", "here")
        assert row["answer"] == f"{made['solution']}\n#### {made['answer']}"
