"""The exact format: tags around reasoning and answer, and what counts as reasoning."""

import inspect
import json

import pytest

from docstring_tables import SHORT, table
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Reasoning, Tags


@pytest.mark.parametrize(("text", "counts"), table(Reasoning))
def test_what_counts_as_reasoning(text, counts):
    assert Reasoning().is_in(text) is (counts == "yes")


@pytest.mark.parametrize(("completion", "has_it"), table(answers.has_format))
def test_what_has_the_format(completion, has_it):
    assert answers.has_format(completion, SHORT) is (has_it == "yes")


@pytest.mark.parametrize(("completion", "abstains"), table(answers.abstains))
def test_what_abstains(completion, abstains):
    assert answers.abstains(completion, SHORT) is (abstains == "yes")


def test_the_amount_of_reasoning_is_a_setting():
    one, two = "48/2=24", "48/2=24, 24+48=72"
    assert [Reasoning(calculations=2).is_in(text) for text in (one, two)] == [False, True]
    assert [Reasoning(calculations=None, words=2).is_in(text) for text in (two, "of eggs")] == [False, True]
    assert not Reasoning(calculations=2, words=None).is_in("Each of them has the same number of eggs.")
    tags = Tags(*SHORT.all(), Reasoning(calculations=2, words=None))
    assert [answers.has_format(f"<r>{text}</r><a>72</a>", tags) for text in (one, two)] == [False, True]


def test_every_solution_of_gsm8k_counts_as_reasoning(published):
    """The default is the strictest number of words for which they do."""
    solutions = []
    for split in ("train", "test"):
        lines = (published / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = gsm8k.normalise_rows([json.loads(line) for line in lines], split, split)
        solutions += [gsm8k.strip_annotations(row["solution"]) for row in rows]
    assert len(solutions) == 7473 + 1319 and all(map(Reasoning().is_in, solutions))
    assert not all(map(Reasoning(words=Reasoning.words + 1).is_in, solutions))
    calculated = sum(map(Reasoning(words=None).is_in, solutions[:7473]))
    assert f"{calculated:,} of the train solutions have a calculation" in inspect.getdoc(Reasoning)
