"""Generated word problems in GSM8K's row format: the miniature's data set. The same seed gives the same rows.

A problem tells of a person who has some things, and of one to three steps (buy, give away, multiply). Its solution has
one equation a line, with GSM8K's `<<…>>` annotations. No two rows of a data set share a question.

Test rows are of two groups, and their key `group` says which. Rows `in_distribution` are drawn as train rows are.
Because train has half of them up to name and thing, they cannot tell a rule from a memory. Rows `held_out`
have names, things and chains of operations that never occur in train. They share verbs and numbers with train.
"""

import itertools
import random
from collections.abc import Iterable
from typing import NamedTuple

# fmt: off
NAMES = (
    "Ada", "Alex", "Alma", "Amir", "Ana", "Anton", "Bea", "Ben", "Bruno", "Carl", "Cleo", "Dan", "Dana", "Dora",
    "Edgar", "Eli", "Elsa", "Emil", "Enzo", "Eva", "Felix", "Finn", "Flora", "Gia", "Greta", "Gus", "Hana", "Heidi",
    "Hugo", "Ida", "Igor", "Ines", "Iris", "Ivan", "Jack", "Jana", "Jonas", "Jude", "Julia", "Kai", "Karim", "Kira",
    "Kofi", "Lars", "Lea", "Lena", "Leo", "Lina", "Luca", "Mara", "Marco", "Maya", "Mia", "Milan", "Mona", "Nadia",
    "Nico", "Nina", "Noah", "Nora", "Olga", "Omar", "Oscar", "Pablo", "Paul", "Petra", "Pia", "Quinn", "Ravi", "Remy",
    "Rita", "Rosa", "Ruben", "Ruth", "Sam", "Sara", "Simon", "Sofia", "Stella", "Sven", "Tara", "Theo", "Tina", "Tom",
    "Ugo", "Uma", "Vera", "Vito", "Wanda", "Will", "Xena", "Yara", "Yuri", "Zara", "Zeno", "Zoe",
)
THINGS = (
    "acorns", "anchors", "apples", "arrows", "badges", "bags", "balls", "baskets", "beads", "bells", "belts", "bikes",
    "blocks", "boats", "bolts", "books", "bowls", "boxes", "brooms", "brushes", "buttons", "cakes", "candles", "caps",
    "cards", "carrots", "chairs", "clocks", "coats", "coins", "combs", "cookies", "corks", "crayons", "cups", "dishes",
    "dolls", "drums", "eggs", "feathers", "figs", "flags", "flutes", "forks", "gems", "globes", "gloves", "grapes",
    "hammers", "hats", "hooks", "jars", "kettles", "keys", "kites", "ladders", "lamps", "leaves", "lemons", "magnets",
    "maps", "marbles", "masks", "mirrors", "mugs", "nails", "needles", "nuts", "olives", "peaches", "pears", "pencils",
    "pens", "pillows", "pins", "planks", "plates", "plums", "pots", "puzzles", "rings", "rocks", "ropes", "rulers",
    "scarves", "screws", "seeds", "shells", "shirts", "socks", "spoons", "stamps", "stones", "tickets", "toys",
    "vases",
)
# fmt: on
START = "{name} has {value} {things}"
STEPS = {
    "+": tuple(f"{verb} {{operand}} more" for verb in ("buys", "finds", "wins")),
    "-": tuple(f"{verb} {{operand}}" for verb in ("gives away", "loses", "sells")),
    "*": tuple(f"{verb} {{operand}} times as many" for verb in ("gets", "reaches")),
}
STEP_WEIGHTS = {1: 4, 2: 5, 3: 3}  # how often problems of so many steps are tried; not all fit below LARGEST_VALUE
QUESTION = "How many {things} now?"
# Values stay between 1 and 20 and operands are small, so that less than a million parameters learn them in minutes.
LARGEST_VALUE = 20
GROUPS = ("in_distribution", "held_out")


class Part(NamedTuple):
    """What the problems of a part of the data set are drawn from."""

    names: list[str]
    things: list[str]
    chains: dict[int, list[str]]  # operations such as "+-*", by their number


def draw_parts(rng: random.Random) -> tuple[Part, Part]:
    """The part of train and the part that is held out: no name, thing or chain of operations is in both.

    A chain is all operations of a problem in their order. Train has each operation alone, and nearly all pairs of a
    held-out chain within others.
    """
    names, things = _divide(rng, NAMES), _divide(rng, THINGS)
    chains: tuple[dict, dict] = ({}, {})
    for steps in STEP_WEIGHTS:
        for side, some in zip(chains, _divide(rng, itertools.product(STEPS, repeat=steps)), strict=True):
            if some:
                side[steps] = ["".join(chain) for chain in some]
    return tuple(map(Part, names, things, chains))


def _divide(rng: random.Random, every: Iterable) -> tuple[list, list]:
    """Shuffled: what train has, and the quarter (rounded down) that is held out."""
    shuffled = list(every)
    rng.shuffle(shuffled)
    held_out = len(shuffled) // 4
    return shuffled[held_out:], shuffled[:held_out]


def _operand(rng: random.Random, operation: str, value: int) -> int | None:
    """A second operand that keeps the result within 1 … LARGEST_VALUE, or None if there is none."""
    low, high = {
        "+": (2, min(5, LARGEST_VALUE - value)),
        "-": (2, min(5, value - 1)),
        "*": (2, min(3, LARGEST_VALUE // value)),
    }[operation]
    return rng.randint(low, high) if low <= high else None


def draw_problem(rng: random.Random, part: Part) -> dict:
    """One row (`question`, `answer`) in the published format."""
    while True:
        steps = rng.choices(list(part.chains), weights=[STEP_WEIGHTS[steps] for steps in part.chains])[0]
        value = start = rng.randint(3, 15)
        clauses, lines = [], []
        for operation in rng.choice(part.chains[steps]):
            operand = _operand(rng, operation, value)
            if operand is None:
                break
            clauses.append(rng.choice(STEPS[operation]).format(operand=operand))
            result = {"+": value + operand, "-": value - operand, "*": value * operand}[operation]
            lines.append(f"{value}{operation}{operand}=<<{value}{operation}{operand}={result}>>{result}")
            value = result
        else:
            things = rng.choice(part.things)
            start = START.format(name=rng.choice(part.names), value=start, things=things)
            question = f"{', '.join([start, *clauses])}. {QUESTION.format(things=things)}"
            return {"question": question, "answer": "\n".join([*lines, f"#### {value}"])}


def generate_problems(seed: int, train_rows: int, test_rows: int) -> tuple[list[dict], list[dict]]:
    """Train and test rows whose questions all differ.

    Args:
      seed: the data set's seed, which also decides what is held out; the same seed and sizes give the same rows.
      train_rows: how many train rows. (The stage `prompts` cuts a development split from their end.)
      test_rows: how many test rows. They are drawn first, so that they do not depend on `train_rows`. Their groups
        alternate, so that the first of them hold half of each.

    Returns:
      (train, test): rows in the published format (`question`, `answer`); test rows also have `group`.
    """
    rng = random.Random(f"problems {seed}")
    parts = dict(zip(GROUPS, draw_parts(rng), strict=True))
    rows: dict[str, dict] = {}

    def add(part: Part, **more: str) -> None:
        while (row := draw_problem(rng, part))["question"] in rows:
            pass
        rows[row["question"]] = row | more

    for _, group in zip(range(test_rows), itertools.cycle(GROUPS)):
        add(parts[group], group=group)
    for _ in range(train_rows):
        add(parts["in_distribution"])
    drawn = list(rows.values())
    return drawn[test_rows:], drawn[:test_rows]
