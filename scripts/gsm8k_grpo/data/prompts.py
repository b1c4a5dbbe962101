"""The one prompt builder, for pretraining, training and evaluation, and the output format that it asks for."""

from gsm8k_grpo.models import families
from gsm8k_grpo.rewards.answers import Tags


def build_prompt(system: str, question: str, template: families.Template = families.GEMMA) -> str:
    """The prompt of one question, up to where the model speaks: what the family's published chat template makes of it.

    No <bos> here: the sampler puts exactly one before each prompt, where the family has one.
    """
    system = template.system.format(system=system.strip()) if system.strip() else template.no_system
    return template.text.format(system=system, question=question.strip() if template.strips else question)


def format_completion(reasoning: str, answer: str, tags: Tags) -> str:
    """A completion in the recipe's format: the reasoning block, a new line, the answer block."""
    return f"{tags.reasoning_start}{reasoning}{tags.reasoning_end}\n{tags.answer_start}{answer}{tags.answer_end}"
