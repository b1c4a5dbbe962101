"""Asking the base model and the trained one (scripts/ask.py), and how their answers are shown."""

import subprocess
import sys

import pytest

from gsm8k_grpo.report.side_by_side import ANSWER, REASONING, RESET, side_by_side
from gsm8k_grpo.rewards.answers import Tags
from small_run import fails, read, rows

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def test_a_question_of_the_test_rows_gets_the_completions_of_its_evaluations(finished):
    from gsm8k_grpo.config.settings_argument import stage_settings
    from gsm8k_grpo.evaluation.asking import Asker

    results = finished / "results"
    settings = stage_settings(str(results / "tiny/settings.yaml"), "mesh", "model", "prompt", "evaluation")
    names = ("base", "final")
    asker = Asker(settings, results / "models/tiny", results / "tiny/training/checkpoints.json", names)
    questions = {row["id"]: row["question"] for row in rows(results / "data/word-problems/test.jsonl")}
    evaluated_rows = {name: rows(results / f"tiny/evaluations/{name}/completions.jsonl")[:3] for name in names}
    for name, evaluated in [(name, evaluated_rows[name][index]) for index in range(3) for name in names]:
        answer = asker.ask(questions[evaluated["id"]], name)
        assert (answer.text, answer.tokens) == (evaluated["completion"], evaluated["tokens"])
        assert (answer.reading, answer.has_format) == (evaluated["strict"], evaluated["format_correct"])
        assert answer.truncated == (evaluated["stop_reason"] == "limit")


@pytest.mark.slow
def test_questions_are_read_line_by_line_and_one_that_cannot_be_asked_ends_nothing(finished):
    good = ["Tom has 3 balls, buys 4. How many balls now?", "Tom has 9 balls. How many?"]
    asked = [good[0], "why " * 100, "half of \udcc3", good[1], "", "unread"]
    done = subprocess.run(
        [sys.executable, "scripts/ask.py", "--recipe", "tiny"],
        cwd=finished,
        input="\n".join(asked),
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    assert done.returncode == 0, done.stderr
    step = read(finished / "results/tiny/evaluations/final/metrics.json")["step"]
    headings = [line for line in done.stdout.splitlines() if line.startswith("base model")]
    assert [heading.split(" │ ")[1] for heading in headings] == [f"tiny, final (step {step})"] * 2
    assert "ERROR: prompt.max_tokens: none of the 1 asked prompts fits into 64 tokens" in done.stderr
    assert "ERROR: question: 'half of \\udcc3' is not UTF-8" in done.stderr
    assert "\x1b" not in done.stdout  # colours are for terminals


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ('scripts/ask.py " "', "question: it is blank; write one in quotation marks"),
        ("scripts/ask.py $'caf\\xc3'", "question: 'caf\\udcc3' is not UTF-8"),
        ("scripts/ask.py <&-", "question: standard input is closed"),
    ],
)
def test_what_is_no_question_is_refused(finished, command, said):
    done = subprocess.run(["bash", "-c", f"{sys.executable} {command}"], cwd=finished, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(f"ERROR: {said}"), done.stderr


def test_a_recipe_that_is_not_trained_is_named_with_those_that_are(finished):
    said = fails(finished, "scripts/ask.py", "--recipe", "huge", "How many?")
    assert said == (
        "ERROR: results/huge/settings.yaml: no such file: run snakemake --cores 1 results/report.html --config "
        "recipes=huge first, or name another recipe (trained here: tiny)"
    )


def test_columns_have_the_width_of_the_terminal_and_coloured_tags():
    texts = {"base model": "<answer>72</answer>\nand a word more", "trained": "<reasoning>48/2 = 24, 48+24 = 72 apples"}
    plain = side_by_side(texts, 61, None)
    assert plain.splitlines() == [
        "base model                    │ trained",
        "<answer>72</answer>           │ <reasoning>48/2 = 24, 48+24 =",
        "and a word more               │ 72 apples",
    ]
    coloured = side_by_side(texts, 61, TAGS)
    assert (
        f"{ANSWER}<answer>{RESET}72{ANSWER}</answer>{RESET}           │ {REASONING}<reasoning>{RESET}48/2" in coloured
    )
    assert "\x1b" not in coloured.splitlines()[2]


def test_a_models_text_cannot_command_the_terminal():
    shown = side_by_side({"base": "\x1b[2Jgone\rback", "trained": "ok"}, 80, None)
    assert "\x1b" not in shown and "\r" not in shown and "⟨U+001B⟩[2Jgone⟨U+000D⟩back" in shown
