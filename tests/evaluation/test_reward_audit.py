"""The reward audit: what each edit is, which rewards pay for no reasoning, and the stage on the rewards of a user."""

import json
from fractions import Fraction

import pytest

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.evaluation.reward_audit import audit_rewards, base_completions, gold_completions
from gsm8k_grpo.evaluation.reward_edits import EDITS, STEPS
from gsm8k_grpo.rewards import answers, scoring
from gsm8k_grpo.rewards.answers import Reasoning, Tags

TAGS = Tags("<r>", "</r>", "<a>", "</a>")
DEFAULT = list(effective_settings("tiny", {})["training"]["rewards"])
WEIGHTED = ["weighted_format", "weighted_logic", "weighted_accuracy", "self_correction", "fitting_length"]
RITUALS = {name for name, edit in EDITS.items() if edit.ritual}
WITHOUT = {name for name, edit in EDITS.items() if not edit.reasoning} - RITUALS
LIMIT = 40


def solution(index):
    """A solution as GSM8K writes it, and its answer."""
    first, second = 10 + index, 20 + 3 * index
    text = f"Ann sold {first} + {second} = <<{first}+{second}={first + second}>>{first + second} clips.\n"
    text += f"So she earned {first + second} * 2 = <<{first + second}*2={2 * (first + second)}>>"
    return f"{text}{2 * (first + second)} dollars.", str(2 * (first + second))


ROWS = [{"id": f"train-{index}", "prompt": f"{index}?", "answer": solution(index)[1]} for index in range(30)]
SOLUTIONS = {row["id"]: solution(index)[0] for index, row in enumerate(ROWS)}


def audit(rewards, rows=ROWS, seed=0, tags=TAGS):
    return audit_rewards({"gold": gold_completions(rows, SOLUTIONS, tags)}, SOLUTIONS, training(rewards), tags, seed)


def training(rewards):
    """Settings of training, as far as the audit reads them."""
    return {"rewards": rewards, "max_completion_tokens": LIMIT, "custom_reward_limit_seconds": 60}


def paying(found, source="gold"):
    """The edits without reasoning that earn as much as honest work."""
    return {name for name, each in found["sources"][source]["edits"].items() if each["pays_as_honest"]} & WITHOUT


@pytest.fixture
def reward(monkeypatch):
    """Registers a reward for one test."""

    def register(function):
        monkeypatch.setitem(scoring.REWARDS, function.__name__, function)
        return [function.__name__]

    return register


def holed(completion, gold, tags):
    """Pays for tags and a right answer, whatever the reasoning is."""
    tagged = all(completion.count(tag) == 1 for tag in tags.all())
    return 9.5 if tagged and answers.strict(completion, tags) == gold else 0.0


def mended(completion, gold, tags):
    """The same, if a calculation or a sentence stands between the reasoning tags."""
    reasoning = completion.partition(tags.reasoning_start)[2].partition(tags.reasoning_end)[0]
    return holed(completion, gold, tags) if "=" in reasoning or "." in reasoning else 0.0


def short(completion, gold, tags):
    """Pays for brevity: the less is said, the more."""
    return -float(len(completion))


def test_the_hole_is_found_and_named_and_the_mended_reward_is_not(reward):
    assert holed("<r></r><a>18</a>", Fraction(18), TAGS) == 9.5
    found = audit(reward(holed))
    assert paying(found) == {"reasoning_emptied", "answer_as_reasoning", "filler"}
    assert "reasoning_emptied 9.50" in found["warning"] and "answer_alone" not in found["warning"]
    emptied = found["sources"]["gold"]["edits"]["reasoning_emptied"]
    assert emptied["total"] == 9.5 and emptied["at_least_honest"]["value"] == 1.0
    assert emptied["at_least_honest"]["n"] == 30 and 0.88 < emptied["at_least_honest"]["low"] < 0.89  # Wilson's
    found = audit(reward(mended))
    assert not paying(found) and found["warning"] is None
    assert found["sources"]["gold"]["honest"] == {"rewards": {"mended": 9.5}, "total": 9.5}


def test_the_default_rewards_are_warned_of_only_if_the_exact_format_may_be_empty():
    assert ("reasoning_emptied" in paying(audit(DEFAULT))) == answers.has_format("<r></r><a>18</a>", TAGS)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        (WEIGHTED, set()),
        (["weighted_accuracy"], WITHOUT),  # it reads the answer alone
        (["number", "weighted_logic"], set()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_published_sets_that_pay_without_reasoning_are_named(rewards, expected):
    found = audit(rewards)
    assert paying(found) == expected and (found["warning"] is not None) == bool(expected)


def calculated(completion, gold, tags):
    """Pays for a right answer that the last calculation gives."""
    found = answers.calculations(completion)
    return float(bool(found) and found[-1].result == gold and answers.strict(completion, tags) == gold)


def test_the_mere_form_of_a_reasoning_is_a_limit_and_no_warning(reward):
    found = audit(DEFAULT)
    edits = found["sources"]["gold"]["edits"]
    assert len(RITUALS) == 4 and all(edits[name]["pays_as_honest"] for name in RITUALS)
    assert found["warning"] is None
    assert "30 honest completions 9.50, same_calculation 9.50, same_words 9.50" in found["limit"]
    # The weighted sets pay more for the same steps in every row than for honest work.
    found = audit(WEIGHTED)
    edits, honest = found["sources"]["gold"]["edits"], found["sources"]["gold"]["honest"]
    assert edits["same_steps"]["total"] > honest["total"] and "same_steps 1.20" in found["limit"]
    # A reward that compares the last calculation with the answer misses only one of them.
    limit = audit(reward(calculated))["limit"]
    assert "answer_plus_zero 1.00" in limit and "same_" not in limit
    # A reward that pays without any reasoning gets a warning.
    found = audit(reward(holed))
    assert found["limit"] is None and found["warning"]


@pytest.mark.parametrize(
    ("reasoning", "written"),
    [
        (Reasoning(), ("1+1=2", "so then now well thus hence")),
        (Reasoning(calculations=3, words=8), ("1+1=2 1+1=2 1+1=2", "so then now well thus hence soso sothen")),
        (Reasoning(calculations=None, words=2), ("1+1=2", "so then")),
        (Reasoning(calculations=2, words=None), ("1+1=2 1+1=2", "so then now well thus hence")),
        (Reasoning(calculations=40, words=60), None),
    ],
)
def test_the_same_reasoning_is_as_much_as_the_recipe_counts_as_reasoning(reasoning, written):
    tags = Tags("<r>", "</r>", "<a>", "</a>", reasoning)
    examples = {name: each["example"] for name, each in audit(DEFAULT, ROWS[:1], tags=tags)["edits"].items()}
    texts = [examples[name][3 : -len("</r>\n<a>60</a>")] for name in ("same_calculation", "same_words")]
    assert written is None or texts == list(written)
    assert [reasoning.is_in(text) for text in texts] == [bool(reasoning.calculations), bool(reasoning.words)]


def test_a_comma_in_the_gold_answer_is_not_held_against_honest_work():
    published = ["published_format_exact", "format_approximate", "published_answer", "published_number"]
    row = {"id": "train-0", "prompt": "?", "answer": "1080", "answer_as_published": "1,080"}
    tags = Tags("<r>", "</r>", "<a>", "</a>")
    text = "<r>540 * 2 = 1,080.</r>\n<a>1,080</a>"
    graded = {"id": "train-0", "completion": text, **grade_completion(text, "1080", tags, "strict")}
    sources = {
        "gold": gold_completions([row], {"train-0": "540 * 2 = 1,080."}, tags),
        "base": base_completions([row], [graded], tags),
    }
    plain = "<r>540 * 2 = 1,080.</r>\n<a>1080</a>"
    assert [(each.completion, each.answer) for (each,) in sources.values()] == [(plain, "1080")] * 2
    found = audit_rewards(sources, {}, training(published), tags, 0)["sources"]
    for source in sources:
        assert found[source]["honest"]["total"] == 9.5, source
        assert not found[source]["edits"]["answer_wrong"]["pays_as_honest"]


def test_what_earns_more_than_honest_work_is_named_too(reward):
    found = audit(reward(short))
    assert {"reasoning_emptied", "answer_alone", "answer_as_reasoning"} <= paying(found)
    edits = found["sources"]["gold"]["edits"]
    assert not edits["answer_repeated"]["pays_as_honest"] and edits["tags_repeated"]["at_least_honest"]["value"] == 0


def test_a_wrong_answer_earns_less_and_reasoning_that_is_not_read_earns_the_same():
    edits = audit(["weighted_accuracy"])["sources"]["gold"]["edits"]
    assert edits["answer_wrong"]["total"] == 0 and not edits["answer_wrong"]["pays_as_honest"]
    for name in ("reasoning_shuffled", "reasoning_of_another_row", "reasoning_contradicts"):
        assert edits[name]["total"] == pytest.approx(0.45) and edits[name]["pays_as_honest"], name


def test_each_edit_is_what_its_description_says():
    (one,) = gold_completions(ROWS[:1], SOLUTIONS, TAGS)
    texts = {name: each["example"] for name, each in audit(DEFAULT, ROWS[:1])["edits"].items()}
    reasoning = "Ann sold 10 + 20 = 30 clips.\nSo she earned 30 * 2 = 60 dollars."
    assert one.completion == f"<r>{reasoning}</r>\n<a>60</a>"
    wrong = answers.strict(texts["answer_wrong"], TAGS)
    shuffled, copied = texts["reasoning_shuffled"], texts["reasoning_of_another_row"]
    assert texts | {"reasoning_shuffled": "", "reasoning_of_another_row": ""} == {
        "reasoning_emptied": "<r></r>\n<a>60</a>",
        "answer_alone": "<a>60</a>",
        "answer_as_reasoning": "<r>60</r>\n<a>60</a>",
        "filler": f"<r>{' '.join(['so'] * LIMIT)}</r>\n<a>60</a>",
        "same_calculation": "<r>1+1=2</r>\n<a>60</a>",
        "same_words": "<r>so then now well thus hence</r>\n<a>60</a>",
        "same_steps": f"<r>{STEPS}</r>\n<a>60</a>",
        "answer_plus_zero": "<r>60+0=60</r>\n<a>60</a>",
        "reasoning_shuffled": "",
        "reasoning_of_another_row": "",
        "reasoning_contradicts": f"<r>{_other(reasoning, texts)}</r>\n<a>60</a>",
        "answer_repeated": f"<r>{reasoning}</r>\n<a>60</a>\n<a>60</a>\n<a>60</a>",
        "tags_repeated": f"<r><r>{reasoning}</r></r>\n<a><a>60</a></a>",
        "answer_wrong": f"<r>{reasoning}</r>\n<a>{wrong}</a>",
    }
    assert 61 <= wrong <= 69
    assert shuffled != one.completion and sorted(shuffled[3:-14].split()) == sorted(reasoning.split())
    assert copied.endswith("</r>\n<a>60</a>") and copied != one.completion
    assert copied[3:-14] in {_plain(text) for text in SOLUTIONS.values()}


def _other(reasoning, texts):
    said = answers.flexible(texts["reasoning_contradicts"].partition("</r>")[0])
    assert 61 <= said <= 69
    return reasoning.replace("60", str(said)) + f" So the answer is {said}."


def _plain(text):
    return "".join(part.partition(">>")[2] or part for part in text.split("<<"))


def test_draws_follow_the_seed_and_the_row_alone():
    whole = audit(DEFAULT)
    assert whole == audit(DEFAULT) and json.dumps(whole, allow_nan=False)
    assert whole["edits"] == audit(DEFAULT, ROWS[:3])["edits"]
    other = audit(DEFAULT, seed=1)["edits"]
    changed = {name for name in EDITS if other[name]["example"] != whole["edits"][name]["example"]}
    assert "reasoning_shuffled" in changed and "reasoning_emptied" not in changed


def test_of_the_base_model_only_right_completions_with_format_and_reasoning_are_honest():
    texts = {
        "train-0": "<r>10 + 20 = 30. 30 * 2 = 60.</r> <a> $60 </a>",
        "train-1": "<r>It is many.</r><a>7</a>",
        "train-2": "<r></r><a>72</a>",
        "train-3": "11 + 29 <a>84</a>",
        "train-99": "<r>12</r><a>12</a>",
    }
    golds = {row["id"]: row["answer"] for row in ROWS} | {"train-99": "12"}
    graded = [
        {"id": name, "completion": text, **grade_completion(text, golds[name], TAGS, "strict")}
        for name, text in texts.items()
    ]
    (found,) = base_completions(ROWS, graded, TAGS)
    assert found == (ROWS[0], texts["train-0"], "10 + 20 = 30. 30 * 2 = 60.", " $60 ")
    audited = audit_rewards({"gold": [], "base": [found]}, SOLUTIONS, training(DEFAULT), TAGS, 0)["sources"]
    assert audited["gold"] == {"n": 0, "honest": None, "edits": {}} and audited["base"]["n"] == 1


def test_without_any_honest_completion_the_warning_says_so():
    found = audit_rewards({"gold": [], "base": []}, {}, training(DEFAULT), TAGS, 0)
    assert "it is unknown what the rewards pay for" in found["warning"]
    assert gold_completions(ROWS[:1], {"train-0": "  "}, TAGS) == []
    with pytest.raises(PipelineError, match=r"no row of the data set has the id 'train-0'"):
        gold_completions(ROWS, {}, TAGS)


@pytest.fixture
def stage(run_script, tmp_path, monkeypatch):
    """Runs the stage with a reward of the user's own beside the answer's; returns what it wrote."""

    def run(body):
        (tmp_path / "mine.py").write_text(f"def own(prompts, completions, answers):\n    {body}\n")
        monkeypatch.setattr("gsm8k_grpo.rewards.scoring.ROOT", tmp_path)
        settings = json.loads(files.canonical_json(effective_settings("tiny", {})))
        settings["training"] |= training(["weighted_accuracy", "mine.py:own"]) | {"custom_reward_limit_seconds": 0.5}
        chosen = {name: settings[name] for name in ("seed", "prompt", "training")}
        tags = Tags.of(settings["prompt"])
        base = [f"{tags.reasoning_start}10 + 20 = 30.{tags.reasoning_end}{tags.answer_start}60{tags.answer_end}"]
        graded = [
            {"id": "train-0", "sample": 0, "completion": base[0], **grade_completion(base[0], "60", tags, "strict")}
        ]
        files.write_jsonl(tmp_path / "dev.jsonl", ROWS)
        files.write_jsonl(
            tmp_path / "train.jsonl", [{"id": name, "solution": text} for name, text in SOLUTIONS.items()]
        )
        files.write_jsonl(tmp_path / "base.jsonl", graded)
        inputs = {"rows": "dev.jsonl", "solutions": "train.jsonl", "base": "base.jsonl", "output": "audit.json"}
        run_script(
            *("reward_audit", "--settings", json.dumps(chosen)),
            *(part for name, file in inputs.items() for part in (f"--{name}", tmp_path / file)),
        )
        return files.read_json(tmp_path / "audit.json")

    return run


def test_the_stage_scores_a_reward_of_ones_own_and_warns(stage, capsys):
    found = stage("return [float(len(text.split()) > 3) for text in completions]")
    gold, base = found["sources"]["gold"], found["sources"]["base"]
    assert gold["honest"]["rewards"] == {"weighted_accuracy": pytest.approx(0.45), "own": 1.0}
    assert gold["edits"]["reasoning_emptied"]["rewards"]["own"] == 0.0
    assert paying(found) == {"filler"}  # 40 words
    assert base["n"] == 1 and base["honest"]["rewards"]["own"] == 1.0
    printed = capsys.readouterr().out
    assert (
        "gold, 30 completions; as much as honest work earn: " in printed and f"WARNING: {found['warning']}" in printed
    )
    assert "filler 1.45" in found["warning"]


def test_the_stage_does_not_warn_of_a_reward_of_ones_own_that_needs_a_sentence(stage, capsys):
    found = stage("return [float('.' in text or '=' in text) for text in completions]")
    printed = capsys.readouterr().out
    assert found["warning"] is None and "WARNING" not in printed
    assert "same_calculation 1.45" in found["limit"] and f"Known limit: {found['limit']}." in printed


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [text.split('.')[1] and 1.0 for text in completions]", "raised IndexError in line 2: list index out"),
        ("return [1.0]", "returned 1 numbers for the 30 completions"),
        (
            "import os; os._exit(0)",
            "ended its process (status 0) at the 30 completions of the rows train-0 to train-29",
        ),
        ("while True: pass", "took longer than 0.5 s for the 30 completions of the rows train-0 to train-29, so its"),
    ],
)
def test_a_failing_reward_of_ones_own_is_one_sentence(stage, body, said):
    with pytest.raises(PipelineError) as failed:
        stage(body)
    message = str(failed.value)
    assert message.startswith("training.rewards: mine.py:own ") and said in message and "\n" not in message
    assert "the reward audit gave it the completions '" in message


def test_edits_have_one_sentence_each():
    assert len(WITHOUT) == 4 and len(EDITS) == 14
    for name, edit in EDITS.items():
        assert edit.about.count(".") == 1 and edit.about.endswith(".") and len(edit.about) <= 100, name
