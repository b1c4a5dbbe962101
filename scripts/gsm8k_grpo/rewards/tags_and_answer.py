"""The rewards of Tunix's GSM8K demo and Unsloth's GRPO notebook, mended: tags, and a number between the answer tags.

`number_boxed` replaces `number` where the prompt asks for `\\boxed{…}`. published.py has them as published, and
docs/rewards.md the cases in which both differ.
"""

from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags
from gsm8k_grpo.rewards.registry import reward


@reward
def format_exact(completion: str, gold: Fraction, tags: Tags) -> float:
    r"""Whether the whole completion is a block with reasoning and a block with a number (Tunix, Unsloth). Range 0 … 3.

    `answers.has_format` decides, as in evaluation.

    | completion                    | gold | reward |
    | <r>9*2=18</r>\n<a>18</a>      | 18   | 3      |
    | \n<r>9*2=18</r><a>5</a>\n     | 18   | 3      |
    | <r></r><a>18</a>              | 18   | 0      |
    | <r>so</r><a>18</a>            | 18   | 0      |
    | <r>9*2=18</r><a>many</a>      | 18   | 0      |
    | <r>9*2=18</r><a>18</a> Done.  | 18   | 0      |
    | <a>18</a><r>9*2=18</r>        | 18   | 0      |
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

    3 if equal, 0.5 within ±10 %, 0.25 within ±20 %, else −1; 0 without the exact format.

    | completion                     | gold | reward |
    | <r>9*2=18</r><a> $1,800.0 </a> | 1800 | 3      |
    | <r>9*2=18</r><a>-5</a>         | -5   | 3      |
    | <r>9*2=18</r><a>22</a>         | 20   | 0.5    |
    | <r>9*2=18</r><a>16</a>         | 20   | 0.25   |
    | <r>9*2=18</r><a>5</a>          | -5   | -1     |
    | <r>9*2=18</r><a>1</a>          | 0    | -1     |
    | <r>9*2=18</r><a>many</a>       | 18   | 0      |
    | <r></r><a>18</a>               | 18   | 0      |
    """
    if not answers.has_format(completion, tags):
        return 0.0
    guess = answers.strict(completion, tags)
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
