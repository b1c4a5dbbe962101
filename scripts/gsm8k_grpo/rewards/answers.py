r"""The one answer parser: rewards and evaluation read completions through these functions only.

Numbers are exact decimals or fractions, never floats. A completion has three readings, under the field's names:
*strict* is the number in the recipe's answer tags, or after `####`; *flexible* is the last number anywhere (named as in
lm-evaluation-harness, `gsm8k.yaml`, whose strict one reads `####` alone); *cascade* is the last `\boxed{}`, else the
answer tags, else the last number. tests/rewards/test_answers.py has a table of the readings. The fourth,
published_cascade.py, is a published one with its faults.

Every pattern takes time linear in the input: its parts are bounded or possessive (`++`, `(?>…)`), so that the regular
expression engine never goes back.
"""

import functools
import itertools
import re
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Self

READINGS = ("strict", "flexible", "cascade", "published_cascade")

MAX_DIGITS = 400  # a longer number is noise, not an answer
MAX_OPERANDS = 32  # a longer calculation is noise too, and exact fractions would make it slow

# Commas separate thousands only if all groups of a run have three digits, so that "1,2" is two numbers. The look-behind
# tries a run only at its beginning, which keeps a long run with a bad end linear.
_INTEGER = r"(?>(?<!\d,)\d{1,3}(?:,\d{3})++(?!,?\d)|\d++)"
# `3/4`, `3 / 4` and the mixed `1 1/2`. Two slashes make a date, and a denominator of 0 or with decimals makes no
# fraction: these are separate numbers.
_FRACTION = rf"(?<!/)(?<!/ )(?:({_INTEGER}) )?({_INTEGER}) ?/ ?(?!0++(?!\d))({_INTEGER})(?!\d|\.\d| ?/ ?\d)"
# A number as models write it: sign (ASCII or U+2212), dollar, then a fraction or a decimal. Two look-behinds leave the
# minus of "5-3" and "5 -3" an operator; another one, for decimals without a whole part, leaves the points of "is...18"
# and "eggs.5" to the sentence.
NUMBER = re.compile(rf"(?:(?<![\d.)\w])(?<!\d )[-−])?\$?(?:{_FRACTION}|{_INTEGER}(?:\.\d++)?|(?<![\w.])\.\d++)")
_DIGIT = re.compile(r"\d")
# In a reversed text: the last digit, then all before it that can belong to the same number, and one character more.
_LAST_DIGIT = re.compile(r"\d[\d.,$/ −-]*+.?", re.DOTALL)
# LaTeX for what NUMBER reads: fractions (`\frac{1}{2}` or `\frac12`), escaped dollars, thousands as `1{,}000` or
# `1\,000`.
_LATEX = re.compile(
    r"\\[dt]?frac ?(?:\{ ?([-−]?[\d,]++) ?\}|(\d)) ?(?:\{ ?([\d,]++) ?\}|(\d)(?!\d))|\\(?=\$)|\\!|\\,|\{,\}"
)
# Signs that NUMBER does not know: dashes and hyphens that stand for a minus, the fraction slash, and what has no width,
# such as marks of direction.
_PLAIN_SIGNS = dict.fromkeys("‐‑‒–−﹣－", "-") | {"⁄": "/"}
_PLAIN_SIGNS |= dict.fromkeys(
    map(chr, (0x061C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)), ""
)
# Those, and after a number `½` and `²`.
_TYPOGRAPHY = re.compile(rf"[{''.join(_PLAIN_SIGNS)}]|(?<=\d) ?[¼-¾⅐-⅞]|(?<=\d)[⁰¹²³⁴-⁹]{{1,3}}+")
# What separates thousands beside commas: spaces and apostrophes. In GSM8K, one space between such digits always does so
# (`5 650 000 cars`), but for `12 200-kilobyte videos`. (The search is for the separator: few characters are one.)
_THOUSANDS = re.compile(r"[ '’\xa0\u2007\u2009\u202f](?<=\d.)(?=\d{3}(?!\d|-[^\W\d_]))")
# An exponent, `^2` or `^{2}`: of a number, or of what is none (`18 m^2`, `x^2`).
_POWER = re.compile(
    rf"(?:(?<![\d.])({_INTEGER}(?:\.\d++)?) ?|(?<=[^\W\d_])|(?<=[)}}]))"
    r"\^ ?(?:\{ ?(-?\d{1,3}) ?\}|(-?\d{1,3})(?![\d.,]?\d))"
)
# Braces may be nested three deep, as in `\boxed{\text{about }\frac{3}{4}}`.
_BOXED = re.compile(r"\\boxed ?\{((?:[^{}]++|\{(?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+\})*+)\}")
# What is written as a calculation, also where `calculations` cannot check it (brackets, per cent): two numbers joined
# by an operator or a bracket, an equals sign, a number. `48/2=24`, `80(.30) = $24` and `5 snakes/jaguar * 6 jaguars =
# 30` are such. A number may have a unit of two words.
_UNIT = r"(?:[ /-]?[^\W\d_]++){0,2}"
_SIGNS = r" ?[-−(\\$€£.]*+"
_WRITTEN_CALCULATION = re.compile(
    rf"\d[%)]*+{_UNIT} ?(?:[-+−–*×·xX÷/]|\\(?:times|div|cdot)|(?=\()){_SIGNS}\d[\d.,]*+[%)]*+"
    rf"{_UNIT} ?={_SIGNS}\d"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass(frozen=True)
class Reasoning:
    r"""What counts as reasoning: enough calculations, or enough different words for a sentence. None does not count.

    With these defaults all 7,473 train and all 1,319 test solutions of GSM8K count, without their annotations; 6 is the
    largest number of words for which that is so. 7,334 of the train solutions have a calculation.

    | text                             | counts |
    | 48/2=24                          | yes    |
    | 5 dollars/hour * 3 hours = $15   | yes    |
    | 80(.30) = 24                     | yes    |
    | $5 \times 3 = 15$                | yes    |
    | Half of the eggs are left over.  | yes    |
    | Half of them.                    | no     |
    | so so so so so so so so          | no     |
    | 48/2, on 12/31/2024              | no     |
    | x = 24                           | no     |
    | 24                               | no     |
    """

    calculations: int | None = 1
    words: int | None = 6

    def can_be_met(self) -> bool:
        """Whether anything counts at all."""
        return bool(self.calculations or self.words)

    def is_in(self, text: str) -> bool:
        """Whether a text counts as reasoning."""
        wanted = self.calculations
        if wanted and sum(1 for _ in islice(_WRITTEN_CALCULATION.finditer(text), wanted)) == wanted:
            return True
        different = set()
        for word in _WORD.finditer(text) if self.words else ():
            different.add(word[0].casefold())
            if len(different) == self.words:
                return True
        return False


@dataclass(frozen=True)
class Tags:
    """A recipe's output format: four tags, such as `<reasoning>`, `</reasoning>`, `<answer>`, `</answer>`, and what
    counts as reasoning between the first two."""

    reasoning_start: str
    reasoning_end: str
    answer_start: str
    answer_end: str
    reasoning: Reasoning = Reasoning()

    @classmethod
    def of(cls, prompt_settings: Mapping) -> Self:
        """The output format of a block `prompt` of settings."""
        return cls(**prompt_settings["tags"], reasoning=Reasoning(**prompt_settings["reasoning"]))

    def all(self) -> tuple[str, str, str, str]:
        """The four tags in the order of a completion."""
        return (self.reasoning_start, self.reasoning_end, self.answer_start, self.answer_end)

    def find_overlap(self) -> str | None:
        """A tag that is a part of another one, which no reader could tell apart; None where there is none."""
        tags = self.all()
        return next(
            (tag for i, tag in enumerate(tags) if any(tag in other for other in tags[:i] + tags[i + 1 :])), None
        )


def _normalised(text: str) -> str:
    """A text with its numbers written as NUMBER reads them."""
    text = _THOUSANDS.sub(",", text)  # first, because what follows puts spaces between numbers
    if not text.isascii():
        text = _TYPOGRAPHY.sub(_from_typography, text)
    if "\\" in text or "{,}" in text:
        text = _LATEX.sub(_from_latex, text)
    return _POWER.sub(_from_power, text) if "^" in text else text


def _before_digit(found: re.Match) -> str:
    """A space where a digit comes next, which is no part of the number that `found` becomes."""
    return " " if found.string[found.end() : found.end() + 1].isdigit() else ""


def _from_typography(found: re.Match) -> str:
    if found[0] in _PLAIN_SIGNS:
        return _PLAIN_SIGNS[found[0]]
    compatible = unicodedata.normalize("NFKC", found[0].strip())
    if compatible.isdigit():  # 10²
        return f"^{{{compatible}}}"
    return f" {compatible.replace('⁄', '/')}{_before_digit(found)}"  # 2½


def _from_power(found: re.Match) -> str:
    base, exponent = found[1], int(found[2] or found[3])
    if base is None:
        return ""
    if len(base) * max(1, abs(exponent)) > MAX_DIGITS:
        return ""
    if base.isdecimal() and exponent >= 0:  # the usual case, ten times as fast
        return f"{int(base) ** exponent}{_before_digit(found)}"
    value = Fraction(base.replace(",", ""))
    return f"{plain(value**exponent)}{_before_digit(found)}" if value or exponent >= 0 else ""


def _from_latex(found: re.Match) -> str:
    above, below = found[1] or found[2], found[3] or found[4]
    if above:
        start = found.start()
        mixed = found.string[max(0, start - 1) : start].isdigit()  # 1\frac{1}{2}
        return f"{' ' if mixed else ''}{above}/{below}{_before_digit(found)}"  # \frac{3}{4}100
    return "," if found[0] in (r"\,", "{,}") else ""


def _value(found: re.Match | None) -> Fraction | None:
    """The value of a match of NUMBER."""
    if found is None:
        return None
    text = found[0]
    if not text.isdecimal():
        text = text.replace(",", "").replace("$", "").replace("−", "-")
    if len(text) > MAX_DIGITS:
        return None
    if found[3] is None:
        return Fraction(int(text)) if text.isdecimal() else Fraction(text)
    whole, above, below = (int(part.replace(",", "")) if part else 0 for part in found.groups())
    if not below:  # a zero in another script
        return None
    value = whole + Fraction(above, below)
    return -value if text[0] == "-" else value


def _numbers(text: str) -> Iterator[re.Match]:
    """All numbers of a text, in order."""
    text = _normalised(text)
    # Finding a digit is much faster than finding that no sign, dollar or point begins a number.
    digit = _DIGIT.search(text)
    return NUMBER.finditer(text, max(0, digit.start() - len("-$."))) if digit else iter(())


def parse_number(text: str) -> Fraction | None:
    """The one number of a short text (`1,000`, `$5.00`, `-7`, `3/4`, `18 dollars`), or None.

    Decoration does not matter (`**18**`, `= 18`, `18.`, `50%`). A text with several numbers gives None.
    """
    found = _numbers(text)
    only = next(found, None)
    return None if next(found, None) else _value(only)


def first_number(text: str) -> Fraction | None:
    """The first number in a text, or None."""
    return _value(next(_numbers(text), None))


def flexible(completion: str) -> Fraction | None:
    """The last number anywhere in a completion, or None."""
    # From the end: NUMBER alone would spend most of the time on earlier numbers.
    ending = _LAST_DIGIT.search(_normalised(completion)[::-1])
    return _value(deque(NUMBER.finditer(ending[0][::-1]), maxlen=1).pop()) if ending else None


def boxed(completion: str) -> Fraction | None:
    r"""The number in the last closed `\boxed{…}`, or None."""
    if r"\boxed" not in completion:
        return None
    last = deque(_BOXED.finditer(completion), maxlen=1)
    return parse_number(last[0][1]) if last else None


def answer_block(completion: str, tags: Tags) -> str | None:
    """The content of the last closed answer block, or None if there is none."""
    end = completion.rfind(tags.answer_end)
    start = completion.rfind(tags.answer_start, 0, max(end, 0))
    if start < 0 or end < 0:
        return None
    start += len(tags.answer_start)
    return completion[start : completion.find(tags.answer_end, start)]


def strict(completion: str, tags: Tags) -> Fraction | None:
    """The number in the answer block or, without a block, after the last `####`; else None."""
    block = answer_block(completion, tags)
    return _after_hashes(completion) if block is None else parse_number(block)


def _after_hashes(completion: str) -> Fraction | None:
    _, mark, rest = completion.rpartition("####")
    return parse_number(rest.partition("\n")[0]) if mark else None


def readings(completion: str, tags: Tags) -> tuple[Fraction | None, Fraction | None, Fraction | None]:
    """The readings `strict`, `flexible` and cascade (see above), in one pass."""
    block = answer_block(completion, tags)
    in_tags = None if block is None else parse_number(block)
    last, box = flexible(completion), boxed(completion)
    by_cascade = box if box is not None else in_tags if in_tags is not None else last
    return _after_hashes(completion) if block is None else in_tags, last, by_cascade


def abstains(completion: str, tags: Tags) -> bool:
    """Whether the answer has no number in it: the text in the answer tags; without them, after the last `####`; without
    both, the whole completion.

    | completion                        | abstains |
    | <r>4/2=2</r><a>cannot be told</a> | yes      |
    | <r>4/2=2</r><a></a>               | yes      |
    | 4/2=2, so #### unknown            | yes      |
    | How many, nobody knows.           | yes      |
    | <r>4/2=2</r><a>2</a>              | no       |
    | <r>none</r><a>2 or 3</a>          | no       |
    | 4/2=2, but that is not enough.    | no       |
    """
    answer = answer_block(completion, tags)
    if answer is None:
        answer = completion.rpartition("####")[2]
    return next(_numbers(answer), None) is None


def first_block(completion: str, start: str, end: str) -> str | None:
    """What stands between the first `start` and the first `end` after it, or None."""
    _, opened, rest = completion.partition(start)
    content, closed, _ = rest.partition(end)
    return content if opened and closed else None


def has_format(completion: str, tags: Tags) -> bool:
    r"""Whether the completion is one block with reasoning and then one block with a number, with only white space
    around them.

    | completion                              | has it |
    | <r>48/2=24</r><a>24</a>                 | yes    |
    | \n<r>48/2=24</r>\n<a>about $24.00</a>\n | yes    |
    | <r></r><a>24</a>                        | no     |
    | <r>24</r><a>24</a>                      | no     |
    | <r>48/2=24</r><a></a>                   | no     |
    | <r>48/2=24</r><a>24 or 25</a>           | no     |
    | <r>48/2=24</r> so <a>24</a>             | no     |
    | <r>48/2=24</r><a>24</a> Done.           | no     |
    | <r>48/2=24<a>24</a></r>                 | no     |
    | <a>24</a><r>48/2=24</r>                 | no     |
    | <r>48/2=24</r><r>48/2=24</r><a>24</a>   | no     |
    """
    text = completion.strip()
    if not (text.startswith(tags.reasoning_start) and text.endswith(tags.answer_end)):
        return False
    if any(text.count(tag) != 1 for tag in tags.all()):
        return False
    reasoning_end, answer_start = text.find(tags.reasoning_end), text.find(tags.answer_start)
    if not len(tags.reasoning_start) <= reasoning_end < answer_start:
        return False
    if text[reasoning_end + len(tags.reasoning_end) : answer_start].strip():
        return False
    answer = text[answer_start + len(tags.answer_start) : -len(tags.answer_end)]
    return parse_number(answer) is not None and tags.reasoning.is_in(text[len(tags.reasoning_start) : reasoning_end])


class Gold(Fraction):
    """A gold answer: a number, and its `text` as the data set writes it (`1,000`), which published rules compare."""

    text: str

    def __new__(cls, text: str):
        """
        Raises:
          ValueError: the text is not one number; `gsm8k.normalise` makes sure that it is.
        """
        try:
            value = Fraction(text)
        except ValueError:
            value = parse_number(text)
            if value is None:
                raise
        gold = super().__new__(cls, value)
        gold.text = text
        return gold


@functools.lru_cache(maxsize=2**14)  # a group's completions share their gold answer
def gold_number(answer: str) -> Gold:
    """The gold answer of a text."""
    return Gold(answer)


GOLD_KEYS = ("answer", "answer_as_published")  # what a row has of its gold answer, the second only where it differs


def gold_of(row: Mapping) -> Gold:
    """The gold answer of a row: its `answer`, in the writing of `answer_as_published` where the row has one."""
    answer = gold_number(row["answer"])
    written = gold_number(row.get("answer_as_published", row["answer"]))
    return written if written == answer else answer  # `answer` may have been exchanged


def gold_text(gold: Fraction) -> str:
    """A gold answer as the data set writes it; without that, as a plain number."""
    return gold.text if isinstance(gold, Gold) else plain(gold)


def plain(value: Fraction | None) -> str | None:
    """A number as plain text, as in normalised rows: `1000`, `-7`, `2.5`, or a fraction such as `1/3`."""
    if value is None:
        return None
    if value.denominator == 1:
        return str(value.numerator)
    # A finite decimal has fewer places than its denominator has bits.
    places = next((n for n in range(value.denominator.bit_length()) if 10**n % value.denominator == 0), None)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def within(guess: Fraction | None, gold: Fraction, tolerance: Fraction) -> bool:
    """Whether a guess is within a relative tolerance of the gold number; with gold 0, only 0 is."""
    if guess is None:
        return False
    # |guess − gold| ≤ tolerance · |gold|, times the three denominators: whole numbers are faster.
    apart = abs(guess.numerator * gold.denominator - gold.numerator * guess.denominator)
    return apart * tolerance.denominator <= tolerance.numerator * abs(gold.numerator) * guess.denominator


_OPERATOR = r"[-−–+*×·x/÷]|\\times|\\cdot|\\div"
_PLAIN_OPERATORS = dict.fromkeys("-−–", "-") | dict.fromkeys("*×·x", "*") | {"+": "+", "/": "/", "÷": "/"}
_PLAIN_OPERATORS |= {r"\times": "*", r"\cdot": "*", r"\div": "/"}
# What stands between two numbers of a calculation: up to four words of a unit (`eggs a day`, `/hour`), then an operator
# or `=`, all on one line.
_UNIT_WORDS = r"(?:[ /]?(?!x\b)[^\W\d_]++){0,4}"
_LINK = re.compile(rf"{_UNIT_WORDS}[ \t$]*+(?:({_OPERATOR})[ \t$]*+|=[ \t$*]*+)")
# An operator after something unread on its line, as in `x + 3`. At the beginning of a line it is a list's mark. The
# search takes more than linear time, so it gets few characters.
_UNREAD_OPERAND = re.compile(rf"\S[ \t$]*(?:{_OPERATOR})[ \t$(]*\Z")


@dataclass(frozen=True)
class Calculation:
    """A calculation in a text, `a op b = c`.

    Attributes:
      result: c; None if it divides by 0.
      is_true: whether the two sides are equal. The arithmetic is exact, so `10 / 3 = 3.33` is false.
    """

    result: Fraction | None
    is_true: bool


def calculations(text: str) -> list[Calculation]:
    """The calculations of a text, in order, such as `48 / 2 = 24`, `$5 × 3 = $15` and `16 eggs - 3 - 4 = 9 eggs`.

    Multiplication and division go first. In a chain (`16 - 3 - 4 = 13 - 4 = 9`), each `=` after an operator ends a
    calculation; it is true if its left side equals the whole right side or the right side's first number (`2 + 3 = 5 *
    2 = 10`). What has brackets, per cent or variables is left out.
    """
    found = []
    for chain in _chains(_normalised(text)):
        for left, right in itertools.pairwise(chain):
            if len(left) > 1:
                result, value = _evaluate(right), _evaluate(left)
                found.append(Calculation(result, value is not None and value in (result, right[0][1])))
    return found


def _chains(text: str) -> Iterator[list[list[tuple[str, Fraction]]]]:
    """The chains of a text: expressions with `=` between them. An expression is a list of (operator, number)."""
    chain, end = None, 0
    for found in NUMBER.finditer(text):
        between, operands = text[end : found.start()], _operands(found)
        link = _LINK.fullmatch(between) if end else None
        if end and not between.strip(" \t") and found[0][0] in "-−":  # `5 -3`
            link = _LINK.fullmatch("+")
        if chain and operands and link:
            if link[1]:
                chain[-1] += [(_PLAIN_OPERATORS[link[1]], operands[0][1]), *operands[1:]]
            else:
                chain.append(operands)
        else:
            if chain:
                yield chain
            # Without something to read on the left, the numbers after an operator are no whole calculation.
            unread = link or not operands or _UNREAD_OPERAND.search(between.rpartition("\n")[2][-40:])
            chain = None if unread else [operands]
        if chain and sum(map(len, chain)) > MAX_OPERANDS:
            chain = None
        end = found.end()
    if chain:
        yield chain


def _operands(found: re.Match) -> list[tuple[str, Fraction]]:
    """A match of NUMBER as (operator, number); a fraction is a division. Empty where the number has too many digits."""
    value = _value(found)
    if value is None:
        return []
    if found[3] is None or found[1]:
        return [("+", value)]
    below = Fraction(found[3].replace(",", ""))
    return [("+", value * below), ("/", below)]


def _evaluate(expression: list[tuple[str, Fraction]]) -> Fraction | None:
    """The value of an expression, or None where it divides by 0."""
    total, product = Fraction(0), Fraction(0)
    for operator, number in expression:
        if operator == "/" and not number:
            return None
        if operator in "*/":
            product = product * number if operator == "*" else product / number
        else:
            total, product = total + product, number if operator == "+" else -number
    return total + product
