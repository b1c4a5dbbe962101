"""Prompts in Gemma's chat template, the completions that they ask for, and the prompts of each split."""

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data.prompts import build_prompt, build_prompts, format_completion, split_rows
from gsm8k_grpo.models.families import GEMMA
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
SETTINGS = {"system": "", "layout": None, "warm_start_layout": None, "max_tokens": 60}


@pytest.mark.parametrize(
    ("system", "user"),
    [("Reason first.\n", "Reason first.\n\nHow many?"), ("", "How many?"), (" \n", "How many?")],
    ids=["system text", "none", "blank"],
)
def test_system_text_and_question_share_the_first_user_turn(system, user):
    prompt = build_prompt(system, "How many?")
    assert prompt == f"<start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n"


def test_braces_and_dollars_in_a_question_stay_unchanged():
    assert "{x} {{0}} $5 %s {system}<end_of_turn>" in build_prompt("Use {braces}.", "{x} {{0}} $5 %s {system}")
    assert "Use {braces}.\n\n" in build_prompt("Use {braces}.", "q")


def test_a_layout_goes_in_place_of_the_chat_template():
    layout = "{system}\n\nQuestion: {question}\nSolution:"
    assert (
        build_prompt(" Use {x}. ", "{y} {system}?", layout=layout) == "Use {x}.\n\nQuestion: {y} {system}?\nSolution:"
    )
    settings = SETTINGS | {"system": "Reason.", "layout": layout}
    kept, _ = build_prompts([{"id": "a", "question": "Why?", "answer": "1"}], "dev", settings, GEMMA, len)
    assert kept[0]["prompt"] == "Reason.\n\nQuestion: Why?\nSolution:"


def test_the_completion_asked_for_has_the_format_and_reads_as_its_answer():
    text = format_completion("16-3=13", "13", TAGS)
    assert text == "<reasoning>16-3=13</reasoning>\n<answer>13</answer>"
    assert answers.has_format(text, TAGS) and answers.strict(text, TAGS) == 13


def test_the_last_train_rows_become_dev():
    assert split_rows([1, 2, 3], [4], 2) == {"train": [1], "dev": [2, 3], "test": [4]}
    with pytest.raises(PipelineError, match=r"^prompt\.dev_rows: holds out 3 of the 3 train rows"):
        split_rows([1, 2, 3], [4], 3)


def test_a_prompt_keeps_the_gold_answer_in_the_data_sets_writing():
    row = {"id": "a", "question": "a", "answer": "1000", "answer_as_published": "1,000"}
    (kept,), _ = build_prompts([row], "dev", SETTINGS, GEMMA, len)
    assert (kept["answer"], kept["answer_as_published"]) == ("1000", "1,000")


def test_a_prompt_keeps_the_group_of_its_row():
    row = {"id": "a", "question": "q", "answer": "1"}
    rows = [row, {**row, "id": "b", "group": "held_out"}]
    kept, _ = build_prompts(rows, "test", SETTINGS, GEMMA, len)
    assert [prompt.get("group") for prompt in kept] == [None, "held_out"]


def test_long_prompts_are_left_out_and_listed():
    rows = [{"id": question, "question": question, "answer": "1"} for question in ("a", "b" * 9)]
    kept, summary = build_prompts(rows, "dev", SETTINGS, GEMMA, len)
    prompt = build_prompt("", "a")
    assert kept == [{"id": "a", "prompt": prompt, "answer": "1", "prompt_tokens": len(prompt)}]
    assert summary == {
        "rows": 1,
        "longest_tokens": len(prompt),
        "left_out": [{"id": "b" * 9, "prompt_tokens": len(prompt) + 8}],
    }
    with pytest.raises(PipelineError, match=r"^prompt\.max_tokens: none of the 1 dev prompts fits into 60 tokens"):
        build_prompts(rows[1:], "dev", SETTINGS, GEMMA, len)


def test_train_rows_alone_get_a_prompt_for_the_warm_start_and_both_must_fit():
    rows = [{"id": question, "question": question, "answer": "1"} for question in ("a", "b" * 9)]
    settings = {
        "system": "",
        "layout": "{system}{question}",
        "warm_start_layout": "{system}2 {question}",
        "max_tokens": 9,
    }
    kept, summary = build_prompts(rows, "train", settings, GEMMA, len)
    assert kept == [{"id": "a", "prompt": "a", "warm_start_prompt": "2 a", "answer": "1", "prompt_tokens": 1}]
    assert summary["left_out"] == [{"id": "b" * 9, "prompt_tokens": 11}]
    kept, _ = build_prompts(rows, "dev", settings, GEMMA, len)
    assert len(kept) == 2 and not any("warm_start_prompt" in prompt for prompt in kept)
