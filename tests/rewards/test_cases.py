"""docs/reward_cases.yaml: both versions of each reward differ exactly where a case says why."""

import re

import pytest
import yaml

from gsm8k_grpo.rewards import answers, scoring
from gsm8k_grpo.rewards.answers import Tags

SHORT = Tags("<r>", "</r>", "<a>", "</a>")


def cases(root):
    """(published reward, mended reward, case) of each case."""
    listed = yaml.safe_load((root / "docs" / "reward_cases.yaml").read_text(encoding="utf-8"))
    return [
        (f"published_{name.removeprefix('fitting_')}", name, case)
        for name, of_name in listed.items()
        for case in of_name
    ]


def test_both_versions_differ_exactly_where_a_case_says_why(root):
    for published, mended, case in cases(root):
        text = re.sub(r"\{(\d+) words\}", lambda words: "word " * int(words[1]), case["completion"])
        text, gold = text.replace(r"\n", "\n"), answers.gold_number(case["gold"])
        values = [scoring.REWARDS[name](text, gold, SHORT) for name in (published, mended)]
        assert (values[0] != pytest.approx(values[1])) == ("why" in case), (mended, case, values)


def test_each_published_reward_has_cases(root):
    published = {name for name in scoring.REWARDS if name.startswith("published_")}
    assert published == {name for name, _, _ in cases(root)}
