"""MiniGRPO's reward, mended. published.py has it as published."""

from fractions import Fraction

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags
from gsm8k_grpo.rewards.registry import reward


@reward
def minigrpo(completion: str, gold: Fraction, tags: Tags) -> float:
    """1 for a correct answer, 0.5 for a partly correct one, else 0 (MiniGRPO). Range 0 … 1.

    Partly correct is an answer within ±10 % of the gold number, or, where the tags hold no readable answer, the gold
    number as the last one anywhere. As published, it is an answer in which the gold text occurs, such as 180 for 18.
    Reasoning earns nothing in either: the answer alone is enough, and here also after `####`.

    | completion         | gold | reward |
    | <a>1,800</a>       | 1800 | 1      |
    | #### 18            | 18   | 1      |
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
