"""The prompt as Gemma's chat template has it, and the completion that it asks for."""

import pytest

from gsm8k_grpo.data.prompts import build_prompt, format_completion
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


@pytest.mark.parametrize(
    ("system", "user"),
    [("Reason first.\n", "Reason first.\n\nHow many?"), ("", "How many?"), (" \n", "How many?")],
    ids=["system text", "none", "blank"],
)
def test_system_text_and_question_share_the_first_user_turn(system, user):
    prompt = build_prompt(system, "How many?")
    assert prompt == f"<start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n"


def test_braces_and_dollars_in_a_question_stand_as_they_are():
    assert "{x} {{0}} $5 %s {system}<end_of_turn>" in build_prompt("Use {braces}.", "{x} {{0}} $5 %s {system}")
    assert "Use {braces}.\n\n" in build_prompt("Use {braces}.", "q")


def test_the_completion_asked_for_has_the_format_and_reads_as_its_answer():
    text = format_completion("16-3=13", "13", TAGS)
    assert text == "<reasoning>16-3=13</reasoning>\n<answer>13</answer>"
    assert answers.has_format(text, TAGS) and answers.strict(text, TAGS) == 13
