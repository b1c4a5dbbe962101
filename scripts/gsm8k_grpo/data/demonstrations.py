"""What the miniature is pretrained on: demonstrations with habits, which make a base model that can be taught better.

Random flaws vanish under greedy decoding: the base would look better than it samples, and training would have nothing
visible to mend. So flaws follow the problem. The question's first word (in generated problems, a name) decides which
answer format is usual for it, and whether its answer usually stops one step short. Usual means most of the time: the
right form is shown for every problem often enough to be sampled, which is what GRPO needs.
"""

import random
from collections.abc import Mapping

from gsm8k_grpo.common import files
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.data.prompts import format_completion
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

MALFORMED = ("bare", "unclosed", "untagged")


def _hash_share(seed: int, purpose: str, word: str) -> float:
    """A fixed number in [0, 1) for a word."""
    return int(files.sha256_text(f"{seed} {purpose} {word}")[:12], 16) / 16**12


def _rank_words(seed: int, purpose: str, words: list[str]) -> dict[str, float]:
    """Each word's place among all, in [0, 1): shares of a few words come out exact, not left to the luck of a hash."""
    order = sorted(set(words), key=lambda word: _hash_share(seed, purpose, word))
    return {word: index / len(order) for index, word in enumerate(order)}


def first_word(question: str) -> str:
    """The word that a problem's habits hang on."""
    return question.split(maxsplit=1)[0] if question.strip() else ""


def render_demonstration(form: str, reasoning: str, answer: str, tags: Tags) -> str:
    """A completion in one of the forms: `tagged` is the recipe's format, the others lack something of it."""
    if form == "tagged":
        return format_completion(reasoning, answer, tags)
    if form == "bare":
        return f"{reasoning}\n{answer}"
    if form == "unclosed":
        return f"{tags.reasoning_start}{reasoning}\n{tags.answer_start}{answer}{tags.answer_end}"
    if form == "untagged":
        return f"{tags.reasoning_start}{reasoning}{tags.reasoning_end}\n{answer}"
    raise ValueError(f"no form {form!r}")


def one_step_short(solution: str, answer: str) -> str:
    """The answer of someone who stops one step short: the value before the last calculation (`<<26-4=22>>`: 26).

    Where there is no such value, or it is the right answer too, the answer is one too high.
    """
    calculations = gsm8k.ANNOTATION.findall(solution)
    before = answers.first_number(calculations[-1]) if calculations else None
    gold = answers.gold_number(answer)
    return answers.plain(before if before not in (None, gold) else gold + 1)


def make_demonstrations(rows: list[dict], habits: Mapping, tags: Tags, seed: int) -> list[str]:
    """One completion to imitate for each row, in order.

    Args:
      rows: normalised rows (`question`, `solution`, `answer`).
      habits: `tagged_share` of first words whose usual form is the recipe's; `slip_share` of first words that usually
        slip; `strength`, how often a problem's demonstration follows its habit.
      tags: the recipe's tags.
      seed: of the habits and of the draws.
    """
    words = [first_word(row["question"]) for row in rows]
    form_rank, slip_rank = _rank_words(seed, "form", words), _rank_words(seed, "slip", words)
    rng = random.Random(f"habits {seed}")
    shown = []
    for row, word in zip(rows, words, strict=True):
        rank = form_rank[word]
        if rank < habits["tagged_share"]:
            usual = "tagged"
        else:
            usual = MALFORMED[int((rank - habits["tagged_share"]) / (1 - habits["tagged_share"]) * len(MALFORMED))]
        # Whoever leaves the habit shows the recipe's form: the one that is to be found by sampling.
        form = usual if rng.random() < habits["strength"] else "tagged"
        reasoning, answer = gsm8k.strip_annotations(row["solution"]), row["answer"]
        if slip_rank[word] < habits["slip_share"] and rng.random() < habits["strength"]:
            answer = one_step_short(row["solution"], answer)
        shown.append(render_demonstration(form, reasoning, answer, tags))
    return shown
