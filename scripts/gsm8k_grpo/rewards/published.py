r"""The published rewards, on the shared answer parser, and how the rewards of a recipe are computed by their names.

Each takes one completion, the gold number and the recipe's tags and returns a finite float: a pure function. They are
from three publications:
- Tunix's GSM8K demo and Unsloth's GRPO notebook: `format_exact`, `format_approximate`, `answer`, `number`, and, where
  `\boxed{…}` is asked for, `number_boxed` in the place of the last;
- the weighted set of gemma2-2b-reasoning: `weighted_format`, `weighted_logic`, `weighted_accuracy` (0.25, 0.30, 0.45),
  with the bonuses `self_correction` and `fitting_length`;
- MiniGRPO's `minigrpo`.

Faults of the published versions that are mended here: the number pattern missed `-5` and cut `1,000` to `1`; white
space around a right answer halved the reward; gold 0 was divided by inside a bare `except`; text after the answer block
passed as exact format. The weighted set was published as weights and a phrase for each part: how the parts are
measured, and every constant below, is ours.

The tables of cases write the tags as <r>, </r>, <a> and </a>; tests read them from here.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

Reward = Callable[[str, Fraction, Tags], float]

ENOUGH = 2  # steps, and transition words, for the full reward: GSM8K's problems take 2 to 8 steps (arXiv 2110.14168)
BONUS = 0.1  # of self_correction and fitting_length each: small beside the 1.0 of the weighted sum
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


def format_exact(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""Whether the whole completion is a reasoning block and then an answer block (Tunix, Unsloth). Range 0 … 3.

    | completion               | gold | reward |
    | <r>so</r>\n<a>18</a>     | 18   | 3      |
    | \n<r>so</r><a>5</a>\n    | 18   | 3      |
    | <r>so</r><a>18</a> Done. | 18   | 0      |
    | <a>18</a><r>so</r>       | 18   | 0      |
    """
    return 3.0 if answers.has_format(completion, tags) else 0.0


def format_approximate(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""For each of the four tags +0.5 when it occurs exactly once, else −0.5 (Tunix, Unsloth). Range −2 … 2.

    | completion               | gold | reward |
    | <r>so</r>\n<a>18</a>     | 18   | 2      |
    | <a>18</a><r>so</r> Done. | 18   | 2      |
    | <a>18</a>                | 18   | 0      |
    | <r><r></r><a>18          | 18   | 0      |
    | 18                       | 18   | -2     |
    """
    return sum(0.5 if completion.count(tag) == 1 else -0.5 for tag in tags.all())


def answer(completion: str, gold: Fraction, tags: Tags) -> float:
    """The answer block against the gold number, given the exact format (Tunix, Unsloth). Range −1 … 3.

    3 equal, 0.5 within ±10 %, 0.25 within ±20 %, −1 beyond, −0.5 when it states no number; 0 without the exact format.

    | completion                  | gold | reward |
    | <r>so</r><a> $1,800.00 </a> | 1800 | 3      |
    | <r>so</r><a>-5</a>          | -5   | 3      |
    | <r>so</r><a>22</a>          | 20   | 0.5    |
    | <r>so</r><a>16</a>          | 20   | 0.25   |
    | <r>so</r><a>5</a>           | -5   | -1     |
    | <r>so</r><a>1</a>           | 0    | -1     |
    | <r>so</r><a>many</a>        | 18   | -0.5   |
    | <a>18</a>                   | 18   | 0      |
    """
    if not answers.has_format(completion, tags):
        return 0.0
    guess = answers.strict(completion, tags)
    if guess is None:
        return -0.5
    if guess == gold:
        return 3.0
    if answers.within(guess, gold, Fraction(1, 10)):
        return 0.5
    return 0.25 if answers.within(guess, gold, Fraction(1, 5)) else -1.0


def number(completion: str, gold: Fraction, tags: Tags) -> float:
    """Whether the first number after the opening answer tag is the gold number (Tunix, Unsloth). Range 0 … 1.5.

    | completion      | gold  | reward |
    | <a>18           | 18    | 1.5    |
    | <a>-1,800</a>   | -1800 | 1.5    |
    | <a>18 or 19</a> | 19    | 0      |
    | 18              | 18    | 0      |
    """
    _, found, rest = completion.partition(tags.answer_start)
    return 1.5 if found and answers.first_number(rest) == gold else 0.0


def number_boxed(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""As `number`, but a number in the last closed `\boxed{…}` goes first (gemma3-1b-working-out). Range 0 … 1.5.

    | completion                             | gold | reward |
    | <r>$\boxed{18}$</r>                    | 18   | 1.5    |
    | $\boxed{5}$ no, $\boxed{1{,}800}$ <a>5 | 1800 | 1.5    |
    | $\boxed{1,\!800\text{ dollars}}$       | 1800 | 1.5    |
    | $\boxed{-\frac{1}{2}}$                 | -1/2 | 1.5    |
    | $\boxed{5}$ <a>18</a>                  | 18   | 0      |
    | \boxed{} <a>18</a>                     | 18   | 1.5    |
    | \boxed{18 <a>18</a>                    | 18   | 1.5    |
    | 18                                     | 18   | 0      |
    """
    box = answers.boxed(completion)
    if box is None:
        return number(completion, gold, tags)
    return 1.5 if box == gold else 0.0


def weighted_format(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""The tag structure, a quarter of the weighted sum (gemma2-2b-reasoning). Range 0 … 0.25.

    Half of it for the tags (an eighth for each that occurs exactly once), half for the exact format.

    | completion               | gold | reward |
    | <r>so</r>\n<a>5</a>      | 18   | 0.25   |
    | <r>so</r><a>18</a> Done. | 18   | 0.125  |
    | <r>so</r>                | 18   | 0.0625 |
    | 18                       | 18   | 0      |
    """
    once = sum(completion.count(tag) == 1 for tag in tags.all())
    return 0.25 * (once / 8 + (0.5 if answers.has_format(completion, tags) else 0.0))


def weighted_logic(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""Step-by-step reasoning with transition words, 30 % of the weighted sum (gemma2-2b-reasoning). Range 0 … 0.3.

    A step is a sentence or a line of the closed reasoning block that has a number and says, in three words and signs or
    more, what none before it said, transition words apart. Half of the reward is for steps, half for different
    transition words, at most one a step; more than two of either earn nothing more, so that neither repetition nor
    length is worth anything. Whether the reasoning is right is not seen here: that is the answer's part.

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


def weighted_accuracy(completion: str, gold: Fraction, tags: Tags) -> float:
    """Whether the answer is the gold number, 45 % of the weighted sum (gemma2-2b-reasoning). Range 0 … 0.45.

    Read as evaluation reads it (`answers.strict`). The publication says "correct number" and no more: a number that is
    only near earns nothing.

    | completion     | gold | reward |
    | <a> 1,800 </a> | 1800 | 0.45   |
    | <a>-5</a>      | -5   | 0.45   |
    | <a>19</a>      | 18   | 0      |
    | 18             | 18   | 0      |
    """
    return 0.45 if answers.strict(completion, tags) == gold else 0.0


def self_correction(completion: str, gold: Fraction, tags: Tags) -> float:
    """A bonus for finding and mending an error within the reasoning block (gemma2-2b-reasoning). Range 0 … 0.1.

    There must be a cue ("wait", "actually", "let me check", …); the last number before it must be given up (it comes
    not again after the correcting sentence); the one that the correcting sentence ends on must be another, and be used
    again, in the reasoning or as the answer. A check that changes nothing is no correction. Only with the right answer,
    and once, so that it cannot stand in for solving; a mistake that is staged to be corrected is not told from a found
    one, which is why the bonus is small.

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


def fitting_length(completion: str, gold: Fraction, tags: Tags) -> float:
    """A bonus for a closed reasoning block of a fitting length, in words (gemma2-2b-reasoning). Range 0 … 0.1.

    All of it from 16 to 214 words (`FITTING_WORDS`); from there it falls evenly, to 0 at no word and at twice as many.

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


def minigrpo(completion: str, gold: Fraction, tags: Tags) -> float:
    """1 for a correct answer, 0.5 for a partly correct one, else 0 (MiniGRPO). Range 0 … 1.

    The publication does not say what is partly correct. Here: the answer is within ±10 % of the gold number, as
    partial accuracy counts; or no answer can be read from its tags, and the last number anywhere is the gold number.

    | completion         | gold | reward |
    | <a>1,800</a>       | 1800 | 1      |
    | <a>19</a>          | 18   | 0.5    |
    | It is -5.          | -5   | 0.5    |
    | <a>4 + 14 = 18</a> | 18   | 0.5    |
    | <a>5</a> or 18     | 18   | 0      |
    | <a>1</a>           | 0    | 0      |
    | none               | 18   | 0      |
    """
    guess = answers.strict(completion, tags)
    if guess == gold:
        return 1.0
    if guess is None:
        return 0.5 if answers.flexible(completion) == gold else 0.0
    return 0.5 if answers.within(guess, gold, Fraction(1, 10)) else 0.0


def _reasoning(completion: str, tags: Tags) -> tuple[int, int]:
    """Where the first reasoning block's content begins and ends; (0, 0) where none is closed."""
    start = completion.find(tags.reasoning_start)
    start += len(tags.reasoning_start) if start >= 0 else 0
    end = completion.find(tags.reasoning_end, start) if start > 0 else -1
    return (start, end) if end >= 0 else (0, 0)
