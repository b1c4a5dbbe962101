"""How completions reason: how much, with which calculations, and whether these lead to the answer."""

from gsm8k_grpo.rewards import answers
from gsm8k_grpo.rewards.answers import Tags


def reasoning_metrics(completions: list[str], tags: Tags) -> dict[str, float | None]:
    """Figures of a step's completions.

    Returns:
      `reasoning_words`: words between the reasoning tags, a mean over completions. White space separates words, so
        `48/2=24` is one.
      `calculations`: calculations anywhere (`answers.calculations`), a mean over completions.
      `calculations_true`: the share of these calculations that are true; None without any.
      `calculated_answers`: the share of completions whose last calculation gives their own answer (the strict
        reading), right or wrong.
    """
    blocks = [answers.first_block(text, tags.reasoning_start, tags.reasoning_end) for text in completions]
    words = [len((block or "").split()) for block in blocks]
    calculated = [answers.calculations(text) for text in completions]
    true = [each.is_true for found in calculated for each in found]
    agree = [
        bool(found) and found[-1].result is not None and found[-1].result == answers.strict(text, tags)
        for text, found in zip(completions, calculated, strict=True)
    ]
    return {
        "reasoning_words": sum(words) / len(completions),
        "calculations": len(true) / len(completions),
        "calculations_true": sum(true) / len(true) if true else None,
        "calculated_answers": sum(agree) / len(completions),
    }
