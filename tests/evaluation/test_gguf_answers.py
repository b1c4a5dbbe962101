"""benchmarks/gguf_answers.py: what it counts, on completions whose differences are known."""

import runpy
from types import SimpleNamespace

from gsm8k_grpo.rewards.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def answer(number, more=""):
    return f"<reasoning>so{more}</reasoning>\n<answer>{number}</answer>"


def test_completions_answers_and_right_ones_are_counted_apart(root):
    compare = runpy.run_path(str(root / "benchmarks" / "gguf_answers.py"))["compare"]
    rows = [{"id": str(index), "answer": "5"} for index in range(3)]
    ours = [([5, 7], answer(5)), ([5, 7], answer(5)), ([5, 6, 7], answer(5))]
    theirs = [([5, 7], answer(5)), ([5, 8, 7], answer(5, "!")), ([4, 7], answer(4))]
    llama = [
        SimpleNamespace(tokens=tokens, text=text, margins=[0.25, 0.001, 3.0][: len(tokens)], same_prompt=index != 1)
        for index, (tokens, text) in enumerate(theirs)
    ]
    lines, parted = compare(rows, ours, llama, TAGS, "strict")
    assert [line.split()[0] for line in lines[:3]] == ["2", "1", "2"]
    assert lines[3] == "3 answers are right here, 2 in llama.cpp"
    assert lines[4].endswith("at most 0.25 apart")
    assert [(each["id"], each["place"], each["margin"]) for each in parted] == [("1", 1, 0.001), ("2", 0, 0.25)]
