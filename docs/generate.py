"""Writes the parts of docs/ that the code decides: `python docs/generate.py`.

With `--check` it writes nothing and only says whether they are up to date; tests/test_docs.py does so. A generated part
stands between two marks, `<!-- docs/generate.py: begin NAME -->` and the same with `end`.
"""

import argparse
import inspect
import os
import sys
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np  # noqa: E402

from gsm8k_grpo.common import estimators  # noqa: E402
from gsm8k_grpo.evaluation.reward_edits import EDITS  # noqa: E402
from gsm8k_grpo.rewards import scoring  # noqa: E402
from gsm8k_grpo.rewards.answers import Tags  # noqa: E402

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
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
        ["", "r − mean", "`grpo`: (r − mean) / deviation", "`rloo`: r − mean of the others", "`drgrpo`: r − mean"],
        [[n, signed(total - totals.mean()), f"**{signed(a)}**", signed(b), signed(c)]
         for n, total, a, b, c in zip(names, totals, by["grpo"], by["rloo"], by["drgrpo"], strict=True)],
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


def published_rewards() -> str:
    """Each published reward's docstring: what it measures, its range, its table of cases."""
    parts = []
    for name, reward in scoring.REWARDS.items():
        lines = []
        for line in inspect.getdoc(reward).splitlines():
            if not line.startswith("|"):
                lines.append(line.replace("`answers.strict`", "the strict reading"))
                continue
            completion, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            head = completion == "completion"
            lines.append(f"| {completion if head else f'`{completion}`'} | {' | '.join(rest)} |")
            if head:
                lines.append("| --- | --- | --- |")
        parts.append(f"### `{name}`\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def edits() -> str:
    """The edits of the reward audit."""
    rows = [[f"`{name}`", edit.about, "yes" if edit.reasoning else "no"] for name, edit in EDITS.items()]
    return table(["edit", "what it is", "any reasoning left"], rows)


PARTS = {
    "docs/grpo.md": {"group": group, "update": update},
    "docs/rewards.md": {"edits": edits, "rewards": published_rewards},
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
