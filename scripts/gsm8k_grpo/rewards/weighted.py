"""The weighted rewards of gemma2-2b-reasoning, mended: 0.25 format, 0.30 logic, 0.45 accuracy, and two bonuses.

How the parts are measured here, and every constant below, is ours. published_weighted.py has them as published.
"""

import re
from bisect import bisect_left
from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags
from gsm8k_grpo.rewards.registry import reward

ENOUGH = 2  # steps and transition words for the full reward: GSM8K's problems take 2 to 8 steps (arXiv 2110.14168)
BONUS = 0.1  # each of self_correction and fitting_length: small beside the weighted sum's 1.0
# 95 % of GSM8K's own train solutions have 16 words or more, and none more than 214.
FITTING_WORDS = (16, 214)
TRANSITIONS = {
    *("first", "second", "third", "next", "then", "after", "now", "finally", "lastly"),
    *("because", "since", "so", "thus", "hence", "therefore"),
}
CORRECTION = re.compile(
    r"\b(?:wait|actually|oops|hold on|correction|mistake|let me (?:re|double[ -]?)?(?:check|calculate|do))\b",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.!?;](?=\s)|\n")
WORD = re.compile(r"\w+|[-+−*/×÷=]")


@reward
def weighted_format(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""The tags, a quarter of the weighted sum (gemma2-2b-reasoning). Range 0 … 0.25.

    Half of it is for the tags (an eighth for each that occurs exactly once), and half for the exact format.

    | completion                   | gold | reward |
    | <r>9*2=18</r>\n<a>5</a>      | 18   | 0.25   |
    | <r></r><a>18</a>             | 18   | 0.125  |
    | <r>9*2=18</r><a>18</a> Done. | 18   | 0.125  |
    | <r>9*2=18</r>                | 18   | 0.0625 |
    | 18                           | 18   | 0      |
    """
    once = sum(completion.count(tag) == 1 for tag in tags.all())
    return 0.25 * (once / 8 + (0.5 if answers.has_format(completion, tags) else 0.0))


@reward
def weighted_logic(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""Step-by-step reasoning with transition words, 30 % of the weighted sum (gemma2-2b-reasoning). Range 0 … 0.3.

    A step is a sentence or a line of the closed reasoning block. It has a number and at least three words or signs, and
    differs from every earlier step, transition words apart. Half of the reward is for steps, half for different
    transition words, at most one a step. More than two of either earn nothing more, so that neither repetition nor
    length pays. This reward does not judge whether the reasoning is right; the reward of the answer does.

    | completion                                  | gold | reward |
    | <r>First, 48 / 2 = 24. So 48 + 24 = 72.</r> | 72   | 0.3    |
    | <r>48/2=24.\n48+24=72.</r>                  | 72   | 0.15   |
    | <r>So 48 / 2 = 24. So 48 + 24 = 72.</r>     | 72   | 0.225  |
    | <r>So 48 / 2 = 24. Then 48 / 2 = 24.</r>    | 72   | 0.15   |
    | <r>First so then next, so therefore.</r>    | 72   | 0      |
    | <r>So 1. Then 2. Thus 72.</r>               | 72   | 0      |
    | First, 48 / 2 = 24. So 48 + 24 = 72.        | 72   | 0      |
    """
    start, end = _reasoning(completion, tags)
    steps: set[tuple[str, ...]] = set()
    used: set[str] = set()
    for sentence in SENTENCE_END.split(completion[start:end]):
        words = WORD.findall(sentence.casefold())
        said = tuple(word for word in words if word not in TRANSITIONS)
        if len(said) < 3 or said in steps or not answers.NUMBER.search(sentence):
            continue
        steps.add(said)
        used.update([word for word in words if word in TRANSITIONS and word not in used][:1])
    return 0.3 * (min(len(steps), ENOUGH) + min(len(used), ENOUGH)) / (2 * ENOUGH)


@reward
def weighted_accuracy(completion: str, gold: Fraction, tags: Tags) -> float:
    """Whether the answer is the gold number, 45 % of the weighted sum (gemma2-2b-reasoning). Range 0 … 0.45.

    Evaluation reads the answer in the same way (`answers.strict`). A number that is near earns nothing; as published,
    it earns up to 0.405.

    | completion     | gold | reward |
    | <a> 1,800 </a> | 1800 | 0.45   |
    | <a>-5</a>      | -5   | 0.45   |
    | <a>19</a>      | 18   | 0      |
    | 18             | 18   | 0      |
    """
    return 0.45 if answers.strict(completion, tags) == gold else 0.0


@reward
def self_correction(completion: str, gold: Fraction, tags: Tags) -> float:
    """A bonus for correcting an error within the reasoning block (gemma2-2b-reasoning). Range 0 … 0.1.

    A correction begins with a cue ("wait", "actually", "let me check", …). The last number before the cue must not
    occur again after the correcting sentence. The last number of the correcting sentence must be another one, and
    must occur again, in the reasoning or as the answer. A check that changes nothing earns nothing. The bonus needs
    the right answer and counts once, so that it cannot replace solving. It is small, because it cannot tell a
    staged mistake from a real one.

    | completion                                                   | gold | reward |
    | <r>16 - 3 = 12. Wait, 16 - 3 = 13. 13 + 5 = 18.</r><a>18</a> | 18   | 0.1    |
    | <r>9 x 2 = 17. Let me check. 9 x 2 = 18.</r><a>18</a>        | 18   | 0.1    |
    | <r>16 - 3 = 12. Wait, 16 - 3 = 13. 13 + 5 = 18.</r><a>19</a> | 18   | 0      |
    | <r>9 x 2 = 18. Let me check: 9 x 2 = 18.</r><a>18</a>        | 18   | 0      |
    | <r>16 - 3 = 13. Actually 5 more. 13 + 5 = 18.</r><a>18</a>   | 18   | 0      |
    | <r>9 x 2 = 18. Wait, wait, wait.</r><a>18</a>                | 18   | 0      |
    """
    if answers.strict(completion, tags) != gold:
        return 0.0
    start, end = _reasoning(completion, tags)
    cues = list(CORRECTION.finditer(completion, start, end))
    if not cues:
        return 0.0
    found = [(match.start(), answers.parse_number(match[0])) for match in answers.NUMBER.finditer(completion, start)]
    places = [place for place, _ in found]
    last_place = {number: place for place, number in found}
    ends = [match.start() for match in SENTENCE_END.finditer(completion, start, end)] + [end]
    for cue in cues:
        after = bisect_left(places, cue.end())
        if not 0 < after < len(found) or places[after] >= end:
            continue
        sentence_end = ends[bisect_left(ends, places[after])]
        before, corrected = found[after - 1][1], found[bisect_left(places, sentence_end) - 1][1]
        if before != corrected and last_place[before] < sentence_end < last_place[corrected]:
            return BONUS
    return 0.0


@reward
def fitting_length(completion: str, gold: Fraction, tags: Tags) -> float:
    """A bonus for a closed reasoning block of a fitting length, in words (gemma2-2b-reasoning). Range 0 … 0.1.

    16 to 214 words (`FITTING_WORDS`) earn all of it. Outside, it falls linearly to 0: at no word, and at 428 words.

    | completion         | gold | reward |
    | <r>{16 words}</r>  | 18   | 0.1    |
    | <r>{214 words}</r> | 18   | 0.1    |
    | <r>{8 words}</r>   | 18   | 0.05   |
    | <r>{321 words}</r> | 18   | 0.05   |
    | <r>{500 words}</r> | 18   | 0      |
    | <r></r>            | 18   | 0      |
    | {16 words}         | 18   | 0      |
    """
    start, end = _reasoning(completion, tags)
    words = len(completion[start:end].split())
    shortest, longest = FITTING_WORDS
    return BONUS * min(1.0, words / shortest, max(0.0, 2 - words / longest))


def _reasoning(completion: str, tags: Tags) -> tuple[int, int]:
    """Start and end of the first reasoning block's content; (0, 0) if no block is closed."""
    start = completion.find(tags.reasoning_start)
    start += len(tags.reasoning_start) if start >= 0 else 0
    end = completion.find(tags.reasoning_end, start) if start > 0 else -1
    return (start, end) if end >= 0 else (0, 0)
