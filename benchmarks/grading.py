r"""Completions a second that `scripts/grade.py` grades on one core.

  python benchmarks/grading.py

It grades made-up completions of 300 to 1,000 characters: a quarter each with the recipe's tags, with `####`, with
`\boxed{}` and without any mark; half of them are right. It prints median and range of the repeats, for all that
grade.py does after its imports (reading both files, matching, grading, writing rows.jsonl and metrics.json) and for
grading alone. It counts processor seconds of its own, so other load on the machine matters little.
"""

import argparse
import json
import random
import runpy
import statistics
import sys
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from gsm8k_grpo.evaluation import external  # noqa: E402
from gsm8k_grpo.rewards.answers import Tags  # noqa: E402

SENTENCES = (
    "Each of the {a} boxes holds {b} eggs, so there are {a} * {b} = {c} eggs in all.",
    "She pays ${a}.50 for each, which makes ${c}.00 a week, or {b}% of what she earns.",
    "Subtracting the {b} that were broken leaves {c} - {b} = {a}; half of these, 1/2, go to the market.",
    "First, we need to find how much each of them has left at the end of the day.",
    "**Step {b}:** Therefore the total for {a} days comes to {c},000 miles.",
)
FORMS = (
    "<reasoning>\n{text}\n</reasoning>\n<answer>{answer}</answer>",
    "{text}\n#### {answer}",
    "{text}\n\nThe final answer is $\\boxed{{{answer}}}$.",
    "{text} So she makes ${answer} a day at the market.",
)


def make_completion(row: int, rng: random.Random) -> tuple[str, int]:
    """One completion and its gold answer."""
    length, parts = rng.randint(250, 900), []
    while sum(map(len, parts)) < length:
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        parts.append(rng.choice(SENTENCES).format(a=a, b=b, c=a * b))
    gold = rng.randint(1, 5000)
    stated = f"{gold if rng.random() < 0.5 else gold + 1:,}"
    return FORMS[row % len(FORMS)].format(text=rng.choice((" ", "\n")).join(parts), answer=stated), gold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="number of completions")
    parser.add_argument("--repeats", type=int, default=7, help="times that all are graded")
    arguments = parser.parse_args()
    rng = random.Random(0)
    made = [make_completion(row, rng) for row in range(arguments.rows)]
    lengths = [len(text) for text, _ in made]
    tags = Tags(*runpy.run_path(str(SCRIPTS / "grade.py"))["TAGS"])
    whole, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("completions.jsonl", "gold.jsonl")]
        for path, key, column in zip(paths, ("completion", "answer"), zip(*made, strict=True), strict=True):
            path.write_text("".join(json.dumps({"id": row, key: value}) + "\n" for row, value in enumerate(column)))
        for _ in range(arguments.repeats):
            started = time.process_time()
            external.grade_files(*paths, Path(folder) / "out", tags, subset=False)
            whole.append(arguments.rows / (time.process_time() - started))
            completions, golds = external.read_completions(paths[0]), external.read_golds(paths[1])
            started = time.process_time()
            external.grade_all(completions, golds, tags)
            alone.append(arguments.rows / (time.process_time() - started))
    print(f"{arguments.rows:,} completions of {min(lengths)} to {max(lengths)} characters, {arguments.repeats} repeats")
    for what, rates in (("grade.py, files included", whole), ("all readings alone", alone)):
        low, middle, high = min(rates), statistics.median(rates), max(rates)
        print(f"{what}: median {middle:,.0f} completions a second ({low:,.0f} to {high:,.0f})")


if __name__ == "__main__":
    main()
