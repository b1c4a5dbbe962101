r"""How many completions a second `scripts/grade.py` grades on one core.

  python benchmarks/grading.py

Completions of 300 to 1,000 characters as models write them about GSM8K's problems, in equal parts with the recipe's
tags, as plain text with `####`, with `\boxed{}` and without any mark; half of them right. Prints the median and the
range of several repeats: of reading both files, matching, grading by all readings and writing rows.jsonl and
metrics.json (what grade.py does after its imports), and of grading alone. A second is one of this process on its core,
so that what else the machine does counts little.
"""

import argparse
import contextlib
import io
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


def completion(row: int, moments: random.Random) -> tuple[str, int]:
    """One completion and its gold answer."""
    length, parts = moments.randint(250, 900), []
    while sum(map(len, parts)) < length:
        a, b = moments.randint(2, 99), moments.randint(2, 99)
        parts.append(moments.choice(SENTENCES).format(a=a, b=b, c=a * b))
    gold = moments.randint(1, 5000)
    stated = f"{gold if moments.random() < 0.5 else gold + 1:,}"
    return FORMS[row % len(FORMS)].format(text=moments.choice((" ", "\n")).join(parts), answer=stated), gold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="completions")
    parser.add_argument("--repeats", type=int, default=7, help="times that they are graded")
    arguments = parser.parse_args()
    moments = random.Random(0)
    made = [completion(row, moments) for row in range(arguments.rows)]
    lengths = [len(text) for text, _ in made]
    entry = runpy.run_path(str(SCRIPTS / "grade.py"))
    grade, tags = entry["main"], Tags(*entry["TAGS"])
    whole, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("completions.jsonl", "gold.jsonl")]
        for path, key, column in zip(paths, ("completion", "answer"), zip(*made, strict=True), strict=True):
            path.write_text("".join(json.dumps({"id": row, key: value}) + "\n" for row, value in enumerate(column)))
        sys.argv = ["grade.py", "--completions", str(paths[0]), "--answers", str(paths[1]), "--output", f"{folder}/out"]
        for _ in range(arguments.repeats):
            started = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                grade()
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
