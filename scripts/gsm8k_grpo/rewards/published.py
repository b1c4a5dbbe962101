r"""The rewards of Tunix's GSM8K demo, of the study with Unsloth and of MiniGRPO, as published, faults and all.

Reproductions need them. tags_and_answer.py and minigrpo.py have them mended; docs/rewards.md has the cases that differ.
The five published rewards of gemma2-2b-reasoning are in published_weighted.py.
`format_approximate` is the same in both, so that there is only one.

They compare texts, with the gold answer as the data set writes it (`1,000`). Each pattern is written anew from what the
published one matches, and takes linear time where that one can take quadratic time or more.
"""

import re
from fractions import Fraction

from gsm8k_grpo.rewards import answers, published_cascade
from gsm8k_grpo.rewards.answers import Tags
from gsm8k_grpo.rewards.registry import reward


@reward
def published_format_exact(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""Whether both blocks, not empty, stand somewhere in this order (Tunix, Unsloth; as published). Range 0 … 3.

    A line begins with the opening tag of the reasoning, and a line ends with the closing tag of the answer. Text may
    stand before, between and after.

    | completion                       | gold | reward |
    | <r>so</r>\n<a>18</a>             | 18   | 3      |
    | Sure:\n<r>so</r> so <a>x</a>\nOk | 18   | 3      |
    | <r> </r><a> </a>                 | 18   | 3      |
    | <r></r><a>18</a>                 | 18   | 0      |
    | <r>so</r><a></a>                 | 18   | 0      |
    | Sure: <r>so</r><a>18</a>         | 18   | 0      |
    | <r>so</r><a>18</a> Done.         | 18   | 0      |
    """
    return 0.0 if _answer_in_format(completion, tags) is None else 3.0


@reward
def published_answer(completion: str, gold: Fraction, tags: Tags) -> float:
    """The answer block's text compared with the gold text (Tunix, Unsloth; as published). Range −1 … 3.

    3 if equal, 1.5 if equal apart from white space; else by the ratio of the floats: 0.5 within ±10 %, 0.25 within
    ±20 %, else −1. −0.5 where there is no ratio. 0 without the exact format.

    | completion           | gold  | reward |
    | <r>so</r><a>18</a>   | 18    | 3      |
    | <r>so</r><a> 18 </a> | 18    | 1.5    |
    | <r>so</r><a>18.0</a> | 18    | 0.5    |
    | <r>so</r><a>16</a>   | 20    | 0.25   |
    | <r>so</r><a>5</a>    | 18    | -1     |
    | <r>so</r><a>$18</a>  | 18    | -0.5   |
    | <r>so</r><a>1000</a> | 1,000 | -0.5   |
    | <r>so</r><a>1</a>    | 0     | -0.5   |
    | <r></r><a>18</a>     | 18    | 0      |
    """
    guess, text = _answer_in_format(completion, tags), answers.gold_text(gold)
    if guess is None:
        return 0.0
    if guess == text:
        return 3.0
    if guess.strip() == text.strip():
        return 1.5
    try:
        ratio = float(guess) / float(text)
    except (ValueError, ZeroDivisionError):
        return -0.5
    if 0.9 <= ratio <= 1.1:
        return 0.5
    return 0.25 if 0.8 <= ratio <= 1.2 else -1.0


@reward
def published_number(completion: str, gold: Fraction, tags: Tags) -> float:
    """Whether the first digits and points after the opening answer tag are gold (Tunix; as published). Range 0 … 1.5.

    | completion      | gold  | reward |
    | <a>18           | 18    | 1.5    |
    | <a>about 18.0   | 18    | 1.5    |
    | <a>-5</a>       | -5    | 0      |
    | <a>1,800</a>    | 1800  | 0      |
    | <a>1000</a>     | 1,000 | 0      |
    | <a>so... 18</a> | 18    | 0      |
    | 18              | 18    | 0      |
    """
    found = published_cascade.DIGITS_AND_POINTS.search(completion.partition(tags.answer_start)[2])
    return 1.5 if found and _equal_floats(found[0], gold) else 0.0


@reward
def published_number_boxed(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""As `published_number`, but the last `$\boxed{…}$` goes first (the study with Unsloth). Range 0 … 1.5.

    The dollars are needed, and the whole content must be a float.

    | completion                  | gold | reward |
    | $\boxed{18}$ <a>5</a>       | 18   | 1.5    |
    | $\boxed{-5}$                | -5   | 1.5    |
    | \boxed{18}                  | 18   | 0      |
    | \boxed{5} <a>18</a>         | 18   | 1.5    |
    | $\boxed{18\text{ eggs}}$    | 18   | 0      |
    | $\boxed{none}$ <a>18</a>    | 18   | 0      |
    | $\boxed{1,800}$ <a>1800</a> | 1800 | 0      |
    """
    box = published_cascade.last_box_in_dollars(completion)
    if box is None:
        return published_number(completion, gold, tags)
    return 1.5 if _equal_floats(box, gold) else 0.0


@reward
def published_minigrpo(completion: str, gold: Fraction, tags: Tags) -> float:
    """1 if the first answer block is the gold text, 0.5 if it contains it, else 0 (MiniGRPO, train_fast). Range 0 … 1.

    | completion             | gold | reward |
    | <a> 18 </a>            | 18   | 1      |
    | <a>9 * 2 = 18</a>      | 18   | 0.5    |
    | <a>180</a>             | 18   | 0.5    |
    | <a>18.0</a>            | 18   | 0.5    |
    | <a>1,800</a>           | 1800 | 0      |
    | <a>5</a><a>18</a>      | 18   | 0      |
    | 18                     | 18   | 0      |
    """
    block, text = answers.first_block(completion, tags.answer_start, tags.answer_end), answers.gold_text(gold)
    if block is None or text not in block:
        return 0.0
    return 1.0 if block.strip() == text else 0.5


def _answer_in_format(completion: str, tags: Tags) -> str | None:
    """The content of the answer block where the published pattern matches, else None.

    The pattern takes the first opening tag of the reasoning that begins a line, and the first place for each part after
    it. Later choices leave less text for the rest, so we need not try them.
    """
    begin = re.search(rf"^[^\S\n]*+{re.escape(tags.reasoning_start)}", completion, re.MULTILINE)
    reasoning_end = completion.find(tags.reasoning_end, begin.end() + 1) if begin else -1
    answer_start = completion.find(tags.answer_start, reasoning_end) if reasoning_end >= 0 else -1
    if answer_start < 0:
        return None
    answer_start += len(tags.answer_start)
    end = re.compile(rf"{re.escape(tags.answer_end)}[^\S\n]*+$", re.MULTILINE).search(completion, answer_start + 1)
    return completion[answer_start : end.start()] if end else None


def _equal_floats(guess: str, gold: Fraction) -> bool:
    """Whether a guess and the gold text are the same float; not where one of them is none."""
    try:
        return float(guess) == float(answers.gold_text(gold))
    except ValueError:
        return False
