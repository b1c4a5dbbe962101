r"""The one answer parser: rewards and evaluation read completions through these functions only.

Numbers are exact decimals (or fractions, for `3/4`), never floats. Two readings of a completion, under the field's
names (lm-evaluation-harness, `gsm8k.yaml`): *strict* is the number in the recipe's answer tags, or after `####`;
*flexible* is the last number anywhere.
"""

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

# A number as models write it: sign (ASCII or U+2212), digits with optional thousands commas, optional decimals.
# Every part is bounded or unambiguous, so that a match is linear in the input. The look-behind keeps the minus of
# "5-3" an operator. Commas are of thousands only where all groups of a run are of three digits, so that "1,2" is two
# numbers; that a run is tried at its beginning alone keeps a long one that ends badly linear.
NUMBER = re.compile(r"(?:(?<![\d.)\w])[-−])?\$?(?:(?:(?<!\d,)\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)")
MAX_DIGITS = 400  # a longer run of digits is noise, not an answer: no arithmetic is done on it
FRACTION = re.compile(r"([-−]?)\$?(\d{1,20})\s*/\s*(\d{1,20})")


@dataclass(frozen=True)
class Tags:
    """The four tags of a recipe's output format, such as `<reasoning>`, `</reasoning>`, `<answer>`, `</answer>`."""

    reasoning_start: str
    reasoning_end: str
    answer_start: str
    answer_end: str

    def all(self) -> tuple[str, str, str, str]:
        """The four tags in the order in which a completion should have them."""
        return (self.reasoning_start, self.reasoning_end, self.answer_start, self.answer_end)


def _parse(text: str) -> Fraction | None:
    cleaned = text.replace("−", "-").replace("$", "").replace(",", "")
    return Fraction(cleaned) if len(cleaned) <= MAX_DIGITS else None


def parse_number(text: str) -> Fraction | None:
    """The number that a short text states as a whole (`1,000`, `$5.00`, `-7`, `3/4`, `18 dollars`), or None.

    Decoration is ignored (`**18**`, `= 18`, `18.`, `50%`); a text with several numbers states none.
    """
    whole = FRACTION.fullmatch(text.strip().strip("*").strip())
    if whole and int(whole[3]):
        value = Fraction(int(whole[2]), int(whole[3]))
        return -value if whole[1] else value
    found = NUMBER.findall(text)
    return _parse(found[0]) if len(found) == 1 else None


def first_number(text: str) -> Fraction | None:
    """The first number in a text, or None."""
    found = NUMBER.search(text)
    return _parse(found[0]) if found else None


def flexible(completion: str) -> Fraction | None:
    """The last number anywhere in a completion, or None."""
    last = deque(NUMBER.finditer(completion), maxlen=1)
    return _parse(last[0][0]) if last else None


def answer_block(completion: str, tags: Tags) -> str | None:
    """What stands in the last closed answer block, or None when there is none."""
    end = completion.rfind(tags.answer_end)
    start = completion.rfind(tags.answer_start, 0, max(end, 0))
    if start < 0 or end < 0:
        return None
    start += len(tags.answer_start)
    return completion[start : completion.find(tags.answer_end, start)]


def strict(completion: str, tags: Tags) -> Fraction | None:
    """The number in the recipe's answer block; without a block, the one after the last `####`; else None."""
    block = answer_block(completion, tags)
    if block is None and "####" in completion:
        block = completion.rsplit("####", 1)[1].split("\n", 1)[0]
    return None if block is None else parse_number(block)


def has_format(completion: str, tags: Tags) -> bool:
    """Whether the whole completion is one reasoning block, then one answer block, with only white space around."""
    text = completion.strip()
    if any(text.count(tag) != 1 for tag in tags.all()):
        return False
    reasoning_end = text.find(tags.reasoning_end)
    answer_start = text.find(tags.answer_start)
    return (
        text.startswith(tags.reasoning_start)
        and text.endswith(tags.answer_end)
        and len(tags.reasoning_start) <= reasoning_end < answer_start
        and not text[reasoning_end + len(tags.reasoning_end) : answer_start].strip()
    )


def gold_number(answer: str) -> Fraction:
    """The gold answer of a normalised row as a number.

    Raises:
      ValueError: the text is no plain number; `gsm8k.normalise` lets none through.
    """
    return Fraction(answer)


def plain(value: Fraction | None) -> str | None:
    """A number as plain text, as normalised rows hold it: `1000`, `-7`, `2.5`, else a fraction such as `1/3`."""
    if value is None:
        return None
    if value.denominator == 1:
        return str(value.numerator)
    denominator = value.denominator
    twos = fives = 0
    while denominator % 2 == 0:
        denominator, twos = denominator // 2, twos + 1
    while denominator % 5 == 0:
        denominator, fives = denominator // 5, fives + 1
    if denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def within(guess: Fraction | None, gold: Fraction, tolerance: Fraction) -> bool:
    """Whether a guess lies within a relative tolerance of the gold number; at gold 0 only 0 does."""
    return guess is not None and abs(guess - gold) <= tolerance * abs(gold)
