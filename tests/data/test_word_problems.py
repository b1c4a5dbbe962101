"""Generated word problems: arithmetic checked by an independent reading of question and solution."""

import operator
import random
import re
from collections import Counter

import pytest

from gsm8k_grpo.data import gsm8k, word_problems
from gsm8k_grpo.rewards.answers import Reasoning

ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul}
TOLD = {"has": None}
for sign, forms in word_problems.STEPS.items():
    TOLD |= {form.split(" {operand}")[0]: sign for form in forms}


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


NAME_AND_THING = re.compile(r"^(\w+) has \d+ (\w+)")


def without_name_and_thing(row):
    """A question with its name and thing masked."""
    return re.sub("|".join(NAME_AND_THING.match(row["question"]).groups()), "…", row["question"])


def chain(row):
    """The operations of a solution, as `+-`."""
    return "".join(re.findall(r"<<\d+([-+*])", row["answer"]))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_held_out_never_occurs_in_train(seed):
    train, test = word_problems.generate_problems(seed, 16_000, 600)
    held_out, others = ([row for row in test if row["group"] == group] for group in ("held_out", "in_distribution"))
    assert (len(held_out), len(others)) == (300, 300) and not any("group" in row for row in train)
    for part in (0, 1):  # names, things
        seen, new = ({NAME_AND_THING.match(row["question"])[part + 1] for row in rows} for rows in (train, held_out))
        assert not seen & new and len(new) >= 10
        assert {NAME_AND_THING.match(row["question"])[part + 1] for row in others} <= seen
    seen, new = ({chain(row) for row in rows} for rows in (train, held_out))
    assert not seen & new and len(new) >= 6 and set("+-*") <= seen
    assert {chain(row) for row in others} <= seen
    # Up to name and thing, train has most of the others and none of these.
    seen = set(map(without_name_and_thing, train))
    assert sum(without_name_and_thing(row) in seen for row in others) > 100
    assert sum(without_name_and_thing(row) in seen for row in held_out) == 0


def test_another_seed_holds_out_others():
    first, second = (word_problems.draw_parts(random.Random(seed))[1] for seed in (0, 1))
    assert first.names != second.names and first.things != second.things


def test_the_first_test_rows_hold_half_of_each_group(rows):
    assert [row["group"] for row in rows[1][:4]] == ["in_distribution", "held_out"] * 2


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
