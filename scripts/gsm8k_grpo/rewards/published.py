r"""The published rewards, on the shared answer parser.

Each reward is a pure function of one completion, the gold number and the recipe's tags, and returns a finite float. The
decorator `@reward` registers it; its name is then a value of `training.rewards`. The rewards are from three
publications:
- Tunix's GSM8K demo and Unsloth's GRPO notebook: `format_exact`, `format_approximate`, `answer` and `number`;
  `number_boxed` replaces the last when the prompt asks for `\boxed{…}`;
- the weighted set of gemma2-2b-reasoning: `weighted_format`, `weighted_logic`, `weighted_accuracy` (0.25, 0.30, 0.45),
  with the bonuses `self_correction` and `fitting_length`;
- MiniGRPO's `minigrpo`.

We correct four faults of the published versions: the number pattern missed `-5` and cut `1,000` to `1`; white space
around a right answer halved the reward; gold 0 was a divisor inside a bare `except`; text after the answer block passed
as exact format. The weighted set was published as weights with a phrase for each part: we chose how the parts are
measured, and every constant below.

Each docstring states the range (`Range A … B.`) and has a table of cases, with the tags as <r>, </r>, <a> and </a>.
Tests and docs/rewards.md are made from them.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

Reward = Callable[[str, Fraction, Tags], float]

REWARDS: dict[str, Reward] = {}


def reward(function: Reward) -> Reward:
    """Registers a reward by its function's name."""
    REWARDS[function.__name__] = function
    return function


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
def format_exact(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""Whether the whole completion is a reasoning block and then an answer block (Tunix, Unsloth). Range 0 … 3.

    | completion               | gold | reward |
    | <r>so</r>\n<a>18</a>     | 18   | 3      |
    | \n<r>so</r><a>5</a>\n    | 18   | 3      |
    | <r>so</r><a>18</a> Done. | 18   | 0      |
    | <a>18</a><r>so</r>       | 18   | 0      |
    """
    return 3.0 if answers.has_format(completion, tags) else 0.0


@reward
def format_approximate(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""Each of the four tags: +0.5 if it occurs exactly once, else −0.5 (Tunix, Unsloth). Range −2 … 2.

    | completion               | gold | reward |
    | <r>so</r>\n<a>18</a>     | 18   | 2      |
    | <a>18</a><r>so</r> Done. | 18   | 2      |
    | <a>18</a>                | 18   | 0      |
    | <r><r></r><a>18          | 18   | 0      |
    | 18                       | 18   | -2     |
    """
    return sum(0.5 if completion.count(tag) == 1 else -0.5 for tag in tags.all())


@reward
def answer(completion: str, gold: Fraction, tags: Tags) -> float:
    """The answer block compared with the gold number (Tunix, Unsloth). Range −1 … 3.

    3 if equal, 0.5 within ±10 %, 0.25 within ±20 %, else −1; −0.5 without a number; 0 without the exact format.

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


@reward
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


@reward
def number_boxed(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""As `number`, but the last closed `\boxed{…}` with a number goes first (gemma3-1b-working-out). Range 0 … 1.5.

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


@reward
def weighted_format(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""The tags, a quarter of the weighted sum (gemma2-2b-reasoning). Range 0 … 0.25.

    Half of it is for the tags (an eighth for each that occurs exactly once), and half for the exact format.

    | completion               | gold | reward |
    | <r>so</r>\n<a>5</a>      | 18   | 0.25   |
    | <r>so</r><a>18</a> Done. | 18   | 0.125  |
    | <r>so</r>                | 18   | 0.0625 |
    | 18                       | 18   | 0      |
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

    Evaluation reads the answer in the same way (`answers.strict`). The publication says only "correct number", so that
    a number that is near earns nothing.

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


@reward
def minigrpo(completion: str, gold: Fraction, tags: Tags) -> float:
    """1 for a correct answer, 0.5 for a partly correct one, else 0 (MiniGRPO). Range 0 … 1.

    The publication does not define "partly correct". Here it means that the answer is within ±10 % of the gold number,
    or that the tags hold no readable answer and the last number anywhere is the gold number.

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
    """Start and end of the first reasoning block's content; (0, 0) if no block is closed."""
    start = completion.find(tags.reasoning_start)
    start += len(tags.reasoning_start) if start >= 0 else 0
    end = completion.find(tags.reasoning_end, start) if start > 0 else -1
    return (start, end) if end >= 0 else (0, 0)
