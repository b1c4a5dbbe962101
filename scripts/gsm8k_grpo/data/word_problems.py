"""Generated word problems in GSM8K's row format: the miniature's data set. The same seed gives the same rows.

A problem tells of a person who has some things, and of one to three steps (buy, give away, multiply). Its solution has
one equation a line, with GSM8K's `<<…>>` annotations. No two rows of a data set share a question.
"""

import random

# fmt: off
NAMES = (
    "Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jack", "Kira", "Leo",
    "Mia", "Noah", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tara", "Uma", "Vera", "Will", "Zoe",
)
THINGS = ("apples", "books", "coins", "cards", "shells", "pens", "stamps", "eggs", "plums", "beads", "keys", "cups")
# fmt: on
START = "{name} has {value} {things}"
STEPS = {
    "+": ("buys {operand} more", "finds {operand} more"),
    "-": ("gives away {operand}", "loses {operand}"),
    "*": ("gets {operand} times as many",),
}
QUESTION = "How many {things} now?"
# Values stay between 1 and 20 and operands are small, so that less than a million parameters learn them in minutes.
LARGEST_VALUE = 20


def _operand(rng: random.Random, operation: str, value: int) -> int | None:
    """A second operand that keeps the result within 1 … LARGEST_VALUE, or None if there is none."""
    low, high = {
        "+": (2, min(5, LARGEST_VALUE - value)),
        "-": (2, min(5, value - 1)),
        "*": (2, min(3, LARGEST_VALUE // value)),
    }[operation]
    return rng.randint(low, high) if low <= high else None


def draw_problem(rng: random.Random) -> dict:
    """One row (`question`, `answer`) in the published format."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    value = rng.randint(3, 15)
    clauses = [START.format(name=name, value=value, things=things)]
    lines = []
    for _ in range(rng.choices((1, 2, 3), weights=(5, 4, 1))[0]):
        possible = {sign: operand for sign in STEPS if (operand := _operand(rng, sign, value)) is not None}
        operation, operand = rng.choice(list(possible.items()))
        clauses.append(rng.choice(STEPS[operation]).format(operand=operand))
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[operation]
        lines.append(f"{value}{operation}{operand}=<<{value}{operation}{operand}={result}>>{result}")
        value = result
    question = f"{', '.join(clauses)}. {QUESTION.format(things=things)}"
    return {"question": question, "answer": "\n".join([*lines, f"#### {value}"])}


def generate_problems(seed: int, train_rows: int, test_rows: int) -> tuple[list[dict], list[dict]]:
    """Train and test rows whose questions all differ.

    Args:
      seed: the data set's seed; the same seed and sizes give the same rows.
      train_rows: how many train rows. (The stage `prompts` cuts a development split from their end.)
      test_rows: how many test rows. They are drawn first, so that they do not depend on `train_rows`.

    Returns:
      (train, test): rows in the published format (`question`, `answer`).
    """
    rng = random.Random(f"problems {seed}")
    rows: dict[str, dict] = {}
    while len(rows) < train_rows + test_rows:
        row = draw_problem(rng)
        rows.setdefault(row["question"], row)
    drawn = list(rows.values())
    return drawn[test_rows:], drawn[:test_rows]
