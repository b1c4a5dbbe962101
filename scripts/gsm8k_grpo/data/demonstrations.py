"""The texts that the miniature is pretrained on: completions with systematic flaws, which training can then remove.

Random flaws vanish under greedy decoding: the base model would look better than it samples, and training would have
nothing visible to improve. So each problem has a habit: a flaw that most of its demonstrations show. The word before
the question's last number (in generated problems, the last verb) decides the habit, which is an answer format and
whether the answer stops one step short. Held-out rows have verbs in common with train, so the base model has its habits
there too. Every problem still shows the right form often enough to be sampled, which is what GRPO needs.
"""

import itertools
import random
from collections.abc import Mapping

from gsm8k_grpo.common import files
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.data.prompts import build_prompt, format_completion
from gsm8k_grpo.models.families import Template
from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags

MALFORMED = ("bare", "unclosed", "untagged")


def pretraining_texts(rows: list[dict], settings: Mapping, template: Template) -> tuple[list[str], list[str]]:
    """The prompts of the rows and the completions to imitate, in the rows' order.

    Args:
      rows: normalised rows (`question`, `solution`, `answer`).
      settings: the block `model.pretraining`.
      template: the chat template of the model's family.
    """
    prompts = [build_prompt(settings["system"], row["question"], template) for row in rows]
    return prompts, make_demonstrations(rows, settings, Tags(**settings["tags"]), settings["seed"])


def make_demonstrations(rows: list[dict], settings: Mapping, tags: Tags, seed: int) -> list[str]:
    """One completion to imitate for each row, in the rows' order.

    Args:
      rows: normalised rows (`question`, `solution`, `answer`).
      settings: of the words of `habit_word`, `tagged_share` is the share whose usual format is the recipe's, and
        `slip_share` the share whose answer usually stops one step short; `strength` is how often a demonstration
        follows its habit.
      tags: the recipe's tags.
      seed: decides which words have which habit, and the draws.
    """
    words = [habit_word(row["question"]) for row in rows]
    form_rank, slip_rank = _rank_words(seed, "form", words), _rank_words(seed, "slip", words)
    tagged_share, strength = settings["tagged_share"], settings["strength"]
    rng = random.Random(f"habits {seed}")
    completions = []
    for row, word in zip(rows, words, strict=True):
        rank = form_rank[word]
        if rank < tagged_share:
            usual = "tagged"
        else:
            usual = MALFORMED[int((rank - tagged_share) / (1 - tagged_share) * len(MALFORMED))]
        # A demonstration that breaks with its habit shows the recipe's format, so that sampling can find it.
        form = usual if rng.random() < strength else "tagged"
        reasoning, answer = gsm8k.strip_annotations(row["solution"]), row["answer"]
        if slip_rank[word] < settings["slip_share"] and rng.random() < strength:
            answer = one_step_short(row["solution"], answer)
        completions.append(render_demonstration(form, reasoning, answer, tags))
    return completions


def habit_word(question: str) -> str:
    """The word before the last number ("away" of "gives away 4."); the first word where there is none."""
    words = question.split()
    for before, word in reversed(list(itertools.pairwise(words))):
        if any(character.isdecimal() for character in word):
            return before
    return words[0] if words else ""


def _rank_words(seed: int, purpose: str, words: list[str]) -> dict[str, float]:
    """Each word's rank among all words, in [0, 1). Ranks give exact shares even of a few words; hashes would not."""
    order = sorted(set(words), key=lambda word: int(files.sha256_text(f"{seed} {purpose} {word}")[:12], 16))
    return {word: index / len(order) for index, word in enumerate(order)}


def render_demonstration(form: str, reasoning: str, answer: str, tags: Tags) -> str:
    """A completion in one of the forms: `tagged` is the recipe's format; each of the others lacks a part of it."""
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

    Without such a value, or when that value is right, the answer is one too high.
    """
    calculations = gsm8k.ANNOTATION.findall(solution)
    before = answers.first_number(calculations[-1]) if calculations else None
    gold = answers.gold_number(answer)
    return answers.plain(before if before not in (None, gold) else gold + 1)
