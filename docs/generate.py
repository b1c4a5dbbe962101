"""Writes the parts of docs/ that the code decides: `python docs/generate.py`.

With `--check` it writes nothing and only says whether they are up to date; tests/test_docs.py does so. A generated part
stands between two marks, `<!-- docs/generate.py: begin NAME -->` and the same with `end`.
"""

import argparse
import inspect
import os
import re
import sys
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np  # noqa: E402
import yaml  # noqa: E402

from gsm8k_grpo.common import estimators  # noqa: E402
from gsm8k_grpo.evaluation.reward_edits import EDITS  # noqa: E402
from gsm8k_grpo.rewards import answers, published_cascade, scoring  # noqa: E402
from gsm8k_grpo.rewards.answers import Tags  # noqa: E402

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
SHORT = Tags("<r>", "</r>", "<a>", "</a>")  # of tables of cases
GOLD = Fraction(72)
# The four completions of the worked group in docs/grpo.md.
COMPLETIONS = (
    "<reasoning>48 / 2 = 24. 48 + 24 = 72.</reasoning><answer>72</answer>",
    "<reasoning>48 / 2 = 24. 48 + 24 = 70.</reasoning><answer>70</answer>",
    "<reasoning>48 / 2 = 24.</reasoning><answer>24</answer>",
    "<reasoning>48 / 2 = 24. 48 + 24 = 72.</reasoning> 72",
)
DEMO = ("format_exact", "format_approximate", "answer", "number")
STEP = 1.0  # of the toy update, in logits


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def signed(number: float, digits: int = 2) -> str:
    return f"{number:+.{digits}f}".replace("-", "−")


def group() -> str:
    """The worked group: rewards, advantages by each estimator, and a toy update."""
    scores = [[scoring.REWARDS[name](text, GOLD, TAGS) for name in DEMO] for text in COMPLETIONS]
    totals = np.array([sum(row) for row in scores])
    by = {name: estimators.advantages(totals, len(totals), name) for name in estimators.ADVANTAGE_ESTIMATORS}
    names = [f"{index}" for index in range(1, len(COMPLETIONS) + 1)]
    text = table(["", "completion"], [[n, f"`{text}`"] for n, text in zip(names, COMPLETIONS, strict=True)])
    text += "\nTheir rewards:\n\n"
    text += table(
        ["", *(f"`{name}`" for name in DEMO), "sum r"],
        [[n, *(f"{value:g}".replace("-", "−") for value in row), f"**{total:g}**"]
         for n, row, total in zip(names, scores, totals, strict=True)],
    )  # fmt: skip
    text += f"\nTheir mean is {totals.mean():g} and their sample standard deviation {totals.std(ddof=1):.2f}. "
    text += "The advantages:\n\n"
    text += table(
        ["", "`grpo`: (r − mean) / deviation", "`rloo`: r − mean of the others", "`drgrpo`: r − mean"],
        [[n, f"**{signed(a)}**", signed(b), signed(c)]
         for n, a, b, c in zip(names, by["grpo"], by["rloo"], by["drgrpo"], strict=True)],
    )  # fmt: skip
    return text


def update() -> str:
    """One gradient step of a policy that can say only these four completions, a quarter of the time each."""
    totals = np.array([sum(scoring.REWARDS[name](text, GOLD, TAGS) for name in DEMO) for text in COMPLETIONS])
    advantages = estimators.advantages(totals, len(totals), "grpo").astype(np.float64)
    before = np.full(len(totals), 1 / len(totals))
    # d/dz of the mean of A_i log softmax(z)_i: (A − p ΣA) / G.
    logits = np.log(before) + STEP * (advantages - before * advantages.sum()) / len(totals)
    after = np.exp(logits) / np.exp(logits).sum()
    rows = [[str(i + 1), signed(advantages[i]), f"{before[i]:.1%}", f"{after[i]:.1%}"] for i in range(len(totals))]
    return table(["", "advantage", "probability before", "after one step"], rows)


def described_rewards() -> str:
    """Each reward's docstring: what it measures, its range, its table of cases."""
    parts = []
    for name, reward in scoring.REWARDS.items():
        lines = []
        for line in inspect.getdoc(reward).splitlines():
            if not line.startswith("|"):
                line = line.replace("`answers.strict`", "the strict reading")
                lines.append(line.replace("`answers.has_format`", "[The exact format](#the-exact-format)"))
                continue
            completion, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            head = completion == "completion"
            lines.append(f"| {completion if head else f'`{completion}`'} | {' | '.join(rest)} |")
            if head:
                lines.append("| --- | --- | --- |")
        parts.append(f"### `{name}`\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def as_code(completion: str) -> str:
    return f"`{completion}`"


def documented_table(documented: object) -> list[list[str]]:
    """The cells of the table in a docstring, with its head."""
    lines = [line for line in inspect.getdoc(documented).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def exact_format() -> str:
    """What counts as reasoning and what has the format, from the docstrings of the parser."""
    parts = []
    for documented in (answers.Reasoning, answers.has_format):
        head, *rows = documented_table(documented)
        parts.append(table(head, [[as_code(first), *rest] for first, *rest in rows]))
    return "\n".join(parts)


def cascades() -> str:
    """Both cascades on the cases of published_cascade.py."""
    rows = []
    for completion, gold, published, right in documented_table(published_cascade)[1:]:
        ours = answers.readings(completion, SHORT)[2]
        verdict = "right" if ours == answers.gold_number(gold) else "wrong"
        rows.append([as_code(completion), gold, f"{published or 'nothing'}, {'right' if right == 'yes' else 'wrong'}",
                     f"{answers.plain(ours) or 'nothing'}, {verdict}"])  # fmt: skip
    return table(["completion", "gold", "`published_cascade`", "`cascade`"], rows)


def published_and_mended() -> str:
    """The cases of docs/reward_cases.yaml, by both versions of each reward, and how many differ."""
    parts, all_cases, differing = [], 0, 0
    for name, cases in yaml.safe_load((ROOT / "docs" / "reward_cases.yaml").read_text(encoding="utf-8")).items():
        published = f"published_{name.removeprefix('fitting_')}"
        rows = []
        for case in cases:
            text = re.sub(r"\{(\d+) words\}", lambda words: "word " * int(words[1]), case["completion"])
            gold = answers.gold_number(case["gold"])
            values = [
                f"{scoring.REWARDS[each](text.replace(chr(92) + 'n', chr(10)), gold, SHORT):.4g}".replace("-", "−")
                for each in (published, name)
            ]
            all_cases, differing = all_cases + 1, differing + (values[0] != values[1])
            mended = values[1] if values[0] == values[1] else f"**{values[1]}**"
            rows.append([as_code(case["completion"]), case["gold"], values[0], mended, case.get("why", "")])
        parts.append(f"### `{published}` and `{name}`\n\n")
        parts[-1] += table(["completion", "gold", "as published", "mended", "why they differ"], rows)
    return f"Of {all_cases} cases, {differing} differ (in bold).\n\n" + "\n".join(parts)


def edits() -> str:
    """The edits of the reward audit."""
    left = {name: "its form" if edit.ritual else "yes" if edit.reasoning else "no" for name, edit in EDITS.items()}
    rows = [[f"`{name}`", edit.about, left[name]] for name, edit in EDITS.items()]
    return table(["edit", "what it is", "any reasoning left"], rows)


PARTS = {
    "docs/grpo.md": {"group": group, "update": update},
    "docs/rewards.md": {
        "format": exact_format,
        "cascades": cascades,
        "differences": published_and_mended,
        "edits": edits,
        "rewards": described_rewards,
    },
}


def filled(text: str, name: str, content: str) -> str:
    """A page's text with one of its parts written anew."""
    begin, end = (f"<!-- docs/generate.py: {word} {name} -->\n" for word in ("begin", "end"))
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a part is out of date")
    arguments = parser.parse_args()
    outdated = []
    for name, parts in PARTS.items():
        page = ROOT / name
        text = new = page.read_text(encoding="utf-8")
        for part, make in parts.items():
            new = filled(new, part, make())
        if new != text:
            outdated.append(name)
            if not arguments.check:
                page.write_text(new, encoding="utf-8")
    if arguments.check and outdated:
        sys.exit(f"out of date: {', '.join(outdated)}; run `python docs/generate.py`")


if __name__ == "__main__":
    main()
