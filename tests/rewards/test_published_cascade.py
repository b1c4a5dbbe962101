"""The published grading of answers, with its faults."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docstring_tables import SHORT, table
from gsm8k_grpo.rewards import answers, published_cascade
from gsm8k_grpo.rewards.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


@pytest.mark.parametrize(("completion", "gold", "reads", "right"), table(published_cascade))
def test_the_published_cascade_reads_with_its_faults(completion, gold, reads, right):
    found = published_cascade.read(completion, SHORT)
    assert (found or "") == reads
    assert published_cascade.is_right(found, answers.gold_number(gold)) is (right == "yes")


BOX = re.compile(r"\$\\boxed\{([^}]+)\}\$")
PIECES = ["$\\boxed{", "}$", "}", "$", "\\boxed{", "18", "-5", "1,0", ".", "x", " ", "\n", *TAGS.all()]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_the_published_cascade_is_its_definition(text):
    boxes, numbers = BOX.findall(text), re.compile(r"[\d.]+").findall
    if boxes:
        expected = numbers(boxes[-1])[-1] if numbers(boxes[-1]) else boxes[-1].strip()
    elif TAGS.answer_start in text:
        expected = (numbers(text.split(TAGS.answer_start, 1)[1].split(TAGS.answer_end, 1)[0]) or [None])[-1]
    else:
        expected = (numbers(text) or [None])[-1]
    assert published_cascade.read(text, TAGS) == expected
