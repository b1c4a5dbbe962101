"""The miniature's demonstrations: their habits, how often they follow them, and the flaw of each form."""

from collections import defaultdict

import pytest

from gsm8k_grpo.common import files
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.data import demonstrations, gsm8k, word_problems
from gsm8k_grpo.data.prompts import build_prompts
from gsm8k_grpo.models import families
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")


@pytest.fixture(scope="module")
def rows():
    train, _ = word_problems.generate_problems(seed=0, train_rows=2400, test_rows=0)
    return [gsm8k.normalise(row, str(index), "here") for index, row in enumerate(train)]


def shown_by_word(rows, seed=0, **chosen):
    """(has the format, has the right answer) of each demonstration, by the word that decides its habit."""
    found = defaultdict(list)
    for row, text in zip(rows, demonstrations.make_demonstrations(rows, chosen, TAGS, seed), strict=True):
        right = answers.flexible(text) == int(row["answer"])
        found[demonstrations.habit_word(row["question"])].append((answers.has_format(text, TAGS), right))
    return found


def test_the_base_model_is_pretrained_on_the_prompts_that_it_gets_later(rows):
    """The default recipe's stages `base_model` and `prompts` have the same system text."""
    settings = effective_settings("tiny", {})
    chosen, template = settings["model"]["pretraining"], families.GEMMA
    texts, completions = demonstrations.pretraining_texts(rows[:100], chosen, template)
    prompts, _ = build_prompts(rows[:100], "train", settings["prompt"], template, count_tokens=lambda text: 1)
    assert texts == [row["prompt"] for row in prompts]
    assert completions == demonstrations.make_demonstrations(rows[:100], chosen, TAGS, chosen["seed"])


def test_the_tagged_form_is_the_recipes_format():
    assert (
        demonstrations.render_demonstration("tagged", "2+2=4", "4", TAGS)
        == "<reasoning>2+2=4</reasoning>\n<answer>4</answer>"
    )


@pytest.mark.parametrize("form", demonstrations.MALFORMED)
def test_other_forms_lack_the_format_and_keep_reasoning_and_answer(form):
    text = demonstrations.render_demonstration(form, "2+2=4", "18", TAGS)
    assert not answers.has_format(text, TAGS)
    assert "2+2=4" in text and answers.flexible(text) == 18


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="no form 'sung'"):
        demonstrations.render_demonstration("sung", "r", "1", TAGS)


@pytest.mark.parametrize(
    ("solution", "answer", "slipped"),
    [
        ("20+6=<<20+6=26>>26\n26-4=<<26-4=22>>22", "22", "26"),
        ("5*1=<<5*1=5>>5", "5", "6"),
        ("It says so.", "5", "6"),
        ("<<.5+.5=1>>", "1", "0.5"),
        ("", "-3", "-2"),
    ],
)
def test_a_slip_stops_one_step_short_or_is_one_too_high(solution, answer, slipped):
    assert demonstrations.one_step_short(solution, answer) == slipped


def test_a_slip_is_never_the_right_answer_of_a_generated_problem(rows):
    assert all(demonstrations.one_step_short(row["solution"], row["answer"]) != row["answer"] for row in rows)


def test_a_slip_is_never_the_right_answer_of_a_published_problem(published):
    real = gsm8k.normalise_rows(files.read_jsonl(published / "test.jsonl"), "test", "here")
    assert all(demonstrations.one_step_short(row["solution"], row["answer"]) != row["answer"] for row in real)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Ana has 5 cups, gives away 3. How many cups now?", "away"),
        ("It costs $1,000. Why?", "costs"),
        ("5 apples?", "5"),
        ("How many?", "How"),
        (" ", ""),
    ],
)
def test_the_word_before_the_last_number_decides_the_habit(question, word):
    assert demonstrations.habit_word(question) == word


def test_the_habits_of_train_are_those_of_held_out_rows(rows):
    _, test = word_problems.generate_problems(seed=0, train_rows=1, test_rows=600)
    words = {demonstrations.habit_word(row["question"]) for row in rows}
    assert {demonstrations.habit_word(row["question"]) for row in test} == words


def test_at_full_strength_each_word_has_one_habit_and_shares_are_exact(rows):
    found = shown_by_word(rows, tagged_share=0.5, slip_share=0.25, strength=1.0)
    assert len(found) == 8  # verbs
    assert all(len(set(shown)) == 1 for shown in found.values())
    assert sum(shown[0][0] for shown in found.values()) == 4
    assert sum(not shown[0][1] for shown in found.values()) == 2


def test_another_seed_gives_the_habits_to_other_words(rows):
    chosen = {"tagged_share": 0.5, "slip_share": 0.25, "strength": 1.0}
    assert shown_by_word(rows, seed=0, **chosen) != shown_by_word(rows, seed=1, **chosen)


@pytest.mark.parametrize(
    "chosen",
    [
        {"tagged_share": 0.0, "slip_share": 1.0, "strength": 0.0},
        {"tagged_share": 1.0, "slip_share": 0.0, "strength": 1.0},
    ],
    ids=["habits without strength", "no flaws"],
)
def test_demonstrations_can_all_be_right(rows, chosen):
    assert {pair for shown in shown_by_word(rows, **chosen).values() for pair in shown} == {(True, True)}


def test_with_flaws_everywhere_each_word_still_shows_the_right_form_sometimes(rows):
    found = shown_by_word(rows, tagged_share=0.0, slip_share=1.0, strength=0.75)
    assert all({True, False} == {tagged for tagged, _ in shown} for shown in found.values())
    pairs = [pair for shown in found.values() for pair in shown]
    for position in (0, 1):
        assert 0.22 < sum(pair[position] for pair in pairs) / len(pairs) < 0.28


def test_demonstrations_are_the_same_for_the_same_seed(rows):
    chosen = {"tagged_share": 0.5, "slip_share": 0.4, "strength": 0.65}
    assert demonstrations.make_demonstrations(rows, chosen, TAGS, 3) == demonstrations.make_demonstrations(
        rows, chosen, TAGS, 3
    )
