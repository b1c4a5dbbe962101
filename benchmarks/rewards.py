"""Completions a second that each reward, and all published ones together, score on one core.

  python benchmarks/rewards.py

It scores 2,000 made-up completions of 300 to 600 characters: right, wrong and without format, in a chat model's style.
It prints the median of the repeats, and the seconds that a run of 3,738 steps of 2 prompts and 4 generations spends on
it. The last line is what a reward of a user's own costs because it runs in a process of its own.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from gsm8k_grpo.rewards import scoring
from gsm8k_grpo.rewards.answers import Tags

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
CUSTOM = ("of a user's own", ["benchmarks/rewards.py:nothing"])
RUN_COMPLETIONS = 3738 * 2 * 4
STEPS = (
    "First, she sells {a} boxes of ${b}.50 each in the morning, which makes {a} * {b} = {c} dollars. ",
    "Then {b} friends buy {a:,} more, so that the total is {c} + {a} = {d}.\n",
    "Wait, let me check that: {c} + {a} = {d}, not {c}. ",
    "Half of the {d} eggs are left, because the rest goes to the market on Friday, so {d} / 2 = {b}.\n",
    "Therefore the price per dozen of eggs is {a}/{b} of what the others pay at the shop around the corner. ",
)


def make_completion(rng: random.Random) -> tuple[str, dict]:
    """One completion with its row."""
    reasoning = ""
    length = rng.randint(260, 460)
    while len(reasoning) < length:
        a, b = rng.randint(2, 5000), rng.randint(2, 40)
        reasoning += rng.choice(STEPS).format(a=a, b=b, c=a * b, d=a * b + a)
    gold = rng.randint(1, 2000)
    guess = gold if rng.random() < 0.5 else gold + rng.randint(1, 50)
    text = f"<reasoning>{reasoning.strip()}</reasoning>\n<answer>{guess}</answer>"
    if rng.random() < 0.25:
        text = f"{reasoning}The answer is $\\boxed{{{guess}}}$."
    return text, {"id": "", "prompt": reasoning, "answer": str(gold)}


def nothing(completions: list[str], **_: list[str]) -> list[float]:
    """A reward of a user's own that costs nothing itself."""
    return [0.0] * len(completions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=2000, help="completions of a batch")
    parser.add_argument("--repeats", type=int, default=9, help="repeats, of which the median is printed")
    arguments = parser.parse_args()
    rng = random.Random(0)
    texts, rows = zip(*(make_completion(rng) for _ in range(arguments.completions)), strict=True)
    print(f"{len(texts)} completions of {min(map(len, texts))} to {max(map(len, texts))} characters")
    demo = ["format_exact", "format_approximate", "answer", "number"]  # the rewards of the run of 3,738 steps
    single = [(name, [name]) for name in scoring.REWARDS]
    for label, names in (*single, ("demo", demo), ("all", scoring.REWARDS), CUSTOM):
        seconds = []
        for _ in range(arguments.repeats):
            started = time.perf_counter()
            scoring.score(list(names), list(rows), list(texts), TAGS)
            seconds.append(time.perf_counter() - started)
        rate = len(texts) / statistics.median(seconds)
        print(
            f"{label:30}{rate:12,.0f} completions/s, {1000 * statistics.median(seconds):8.2f} ms a batch, "
            f"{RUN_COMPLETIONS / rate:6.2f} s in {RUN_COMPLETIONS:,} completions"
        )


if __name__ == "__main__":
    main()
