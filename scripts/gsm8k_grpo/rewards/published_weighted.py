"""The weighted rewards of gemma2-2b-reasoning as its code has them, faults and all; weighted.py has the mended ones.

docs/rewards.md has the cases that differ. Each pattern is written anew from what the published one matches, and takes
linear time where that one can take quadratic time. Keywords and phrases count wherever their letters occur: "so" in
"reason", "add" in "ladder".
"""

import re
from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags
from gsm8k_grpo.rewards.registry import reward

KEYWORDS = ("therefore", "because", "since", "so", "thus", "hence", "first", "second", "third", "then", "next")
KEYWORDS += ("finally", "step", "calculate", "compute", "multiply", "divide", "add", "subtract")
PHRASES = ("wait", "actually", "let me recalculate", "i made an error", "correction", "re-checking")
PHRASES += ("that's not right", "let me redo")
_STEP = re.compile(r"step\s*+\d")
_OPERATION = re.compile(r"(?<!\d)\d++\s*+[-+×÷*/]\s*+\d++")
_DECIMAL = re.compile(r"-?\d+\.?\d*")


@reward
def published_weighted_format(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""A quarter for all four tags in any number (gemma2-2b-reasoning, as published). Range 0 … 0.25.

    Half of it where the first answer tag stands before the first end of the reasoning; 0.3 of it for one pair of tags.

    | completion              | gold | reward |
    | <r>so</r>\n<a>18</a>    | 18   | 0.25   |
    | <r></r> so <a></a> Done | 18   | 0.25   |
    | <a>18</a><r>so</r>      | 18   | 0.125  |
    | <a>18</a>               | 18   | 0.075  |
    | </r><r>                 | 18   | 0.075  |
    | <r>so <a>18             | 18   | 0      |
    """
    reasoning_start, reasoning_end, answer_start, answer_end = (tag in completion for tag in tags.all())
    if reasoning_start and reasoning_end and answer_start and answer_end:
        ordered = completion.find(tags.reasoning_end) < completion.find(tags.answer_start)
        return 0.25 if ordered else 0.125
    return 0.3 * 0.25 if (reasoning_start and reasoning_end) or (answer_start and answer_end) else 0.0


@reward
def published_weighted_logic(completion: str, gold: Fraction, tags: Tags) -> float:
    """Keywords, steps, operations and equals signs of the reasoning (gemma2-2b-reasoning, as published). Range 0 … 0.3.

    Of the reward, each keyword earns 5 % once (at most 40 %), each "step 1" 10 % (30 %), each "2 + 2" 5 % (20 %), each
    "=" or "equals" 2 % (10 %). Tags may be in capitals.

    | completion                                                                                 | gold | reward |
    | <r>First, then, next, so, hence, since, thus: step 1, step 2, step 3: 1+1=2=3=4=5=6 2+2 3+3 4+4</r> | 18 | 0.3 |
    | <r>step 1 step 1 step 1 step 1</r>                                                         | 18   | 0.105  |
    | <r>9 * 2 = 18</r>                                                                          | 18   | 0.021  |
    | <r>A reason.</r>                                                                           | 18   | 0.015  |
    | <R>A reason.</R>                                                                           | 18   | 0.015  |
    | <r>step 1                                                                                  | 18   | 0      |
    """
    start = re.search(re.escape(tags.reasoning_start), completion, re.IGNORECASE)
    end = re.compile(re.escape(tags.reasoning_end), re.IGNORECASE).search(completion, start.end()) if start else None
    if not end:
        return 0.0
    reasoning = completion[start.end() : end.start()].lower()
    score = min(0.4, sum(keyword in reasoning for keyword in KEYWORDS) * 0.05)
    score += min(0.3, len(_STEP.findall(reasoning)) * 0.1)
    score += min(0.2, len(_OPERATION.findall(reasoning)) * 0.05)
    score += min(0.1, (reasoning.count("=") + reasoning.count("equals")) * 0.02)
    return min(1.0, score) * 0.30


@reward
def published_weighted_accuracy(completion: str, gold: Fraction, tags: Tags) -> float:
    """The first answer block's last decimal compared with gold's (gemma2-2b-reasoning, as published). Range 0 … 0.45.

    0.45 if equal, 0.405 within ±1 %, 0.225 within ±10 %, else 0. A comma splits a number.

    | completion             | gold  | reward |
    | <a>9 * 2 = 18</a>      | 18    | 0.45   |
    | <a>0</a>               | 1,000 | 0.45   |
    | <a>100.5</a>           | 100   | 0.405  |
    | <a>19</a>              | 18    | 0.225  |
    | <a>1,800</a>           | 1800  | 0      |
    | <a>5</a><a>18</a>      | 18    | 0      |
    | 18                     | 18    | 0      |
    """
    block = answers.first_block(completion, tags.answer_start, tags.answer_end)
    found, true = (_DECIMAL.findall(text)[-1:] for text in (block or "", answers.gold_text(gold)))
    if not (found and true):
        return 0.0
    guess, right = float(found[0]), float(true[0])
    if guess == right:
        return 0.45
    if abs(right) <= 0.001:
        return 0.0
    ratio = guess / right
    if 0.99 <= ratio <= 1.01:
        return 0.9 * 0.45
    return 0.5 * 0.45 if 0.9 <= ratio <= 1.1 else 0.0


@reward
def published_self_correction(completion: str, gold: Fraction, tags: Tags) -> float:
    """0.03 for each of eight phrases of correction, anywhere (gemma2-2b-reasoning, as published). Range 0 … 0.1.

    | completion                                 | gold | reward |
    | Wait, actually: correction! Let me redo 5. | 18   | 0.1    |
    | 9 x 2 = 17. Wait, 9 x 2 = 18.              | 18   | 0.03   |
    | The waiter waits.                          | 18   | 0.03   |
    | 9 x 2 = 18.                                | 18   | 0      |
    """
    text = completion.lower()
    return min(0.1, sum(phrase in text for phrase in PHRASES) * 0.03)


@reward
def published_length(completion: str, gold: Fraction, tags: Tags) -> float:
    """0.05 for 100 to 400 words, 0.02 for 50 to 600, else 0 (gemma2-2b-reasoning, as published). Range 0 … 0.05.

    | completion  | gold | reward |
    | {100 words} | 18   | 0.05   |
    | {400 words} | 18   | 0.05   |
    | {50 words}  | 18   | 0.02   |
    | {600 words} | 18   | 0.02   |
    | {49 words}  | 18   | 0      |
    | {601 words} | 18   | 0      |
    """
    words = len(completion.split())
    if 100 <= words <= 400:
        return 0.05
    return 0.02 if 50 <= words <= 600 else 0.0
