r"""The reading of gemma3-1b-working-out's own evaluation, as published, faults and all.

1. The last `$\boxed{…}$`, dollars needed: its last run of digits and points; without one, its text.
2. Else, where the opening answer tag occurs, the last such run between it and the closing tag. Without one the answer
   is wrong: there is no fall-through.
3. Else the last such run anywhere. It may be the point of a sentence.

It knows no sign and no comma. answers.py has the reading `cascade` without these faults.

| completion                | gold  | reads | right |
| $\boxed{18}$ <a>5</a>     | 18    | 18    | yes   |
| \boxed{18} <a>5</a>       | 18    | 5     | no    |
| $\boxed{two}$ 18          | 18    | two   | no    |
| <a>9 + 9 = 18</a> or 5    | 18    | 18    | yes   |
| <a>eighteen</a> 18        | 18    |       | no    |
| 9 + 9 = 18                | 18    | 18    | yes   |
| It is 18.                 | 18    | 18.   | yes   |
| It is 18 dollars.         | 18    | .     | no    |
| It is -5                  | -5    | 5     | no    |
| It is 1800                | 1,800 | 1800  | no    |
| It is 1,800               | 1,800 | 800   | no    |
"""

import re
from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

TOLERANCE = 1e-6
DIGITS_AND_POINTS = re.compile(r"[\d.]+")
_BOX = "$\\boxed{"


def last_box_in_dollars(completion: str) -> str | None:
    r"""The content of the last `$\boxed{…}$`: one character or more, none of them a brace that closes; else None."""
    last, start = None, completion.find(_BOX)
    while start >= 0:
        begin = start + len(_BOX)
        end = completion.find("}", begin)
        if end < 0:
            break
        if end == begin:
            after = begin
        elif completion.startswith("$", end + 1):
            last, after = completion[begin:end], end + 2
        else:  # boxes that begin before this brace end at it too
            after = end
        start = completion.find(_BOX, after)
    return last


def read(completion: str, tags: Tags) -> str | None:
    """What the published cascade reads in a completion, as text, or None."""
    box = last_box_in_dollars(completion)
    if box is not None:
        return _last_number(box) or box.strip()
    _, opened, rest = completion.partition(tags.answer_start)
    return _last_number(rest.partition(tags.answer_end)[0] if opened else completion)


def as_number(found: str | None) -> float | str | None:
    """A reading as what votes compare: a float (`18.` and `18` are one vote), or the text where it is none."""
    try:
        return None if found is None else float(found)
    except ValueError:
        return found.strip()


def is_right(found: str | None, gold: Fraction) -> bool:
    """Whether a reading counts as the gold answer: as floats or, where one of them is none, as texts."""
    if found is None:
        return False
    text = answers.gold_text(gold)
    try:
        return abs(float(found) - float(text)) < TOLERANCE
    except ValueError:
        return found.strip() == text.strip()


def _last_number(text: str) -> str | None:
    return next(iter(DIGITS_AND_POINTS.findall(text)[-1:]), None)
