"""The one prompt builder, for pretraining, training and evaluation, and the output format that it asks for."""

from gsm8k_grpo.answers import Tags

TEMPLATES = {
    # Gemma has no system role: the system text goes into the first user turn, as the published systems do. No <bos>
    # here: the sampler puts exactly one before each prompt.
    "gemma": "<start_of_turn>user\n{system}{question}<end_of_turn>\n<start_of_turn>model\n",
}
STOP_TOKENS = {"gemma": "<end_of_turn>"}
CONTROL_TOKENS = {"gemma": ("<start_of_turn>", "<end_of_turn>")}


def build(system: str, question: str, template: str = "gemma") -> str:
    """The prompt of one question, up to where the model speaks."""
    return TEMPLATES[template].format(system=f"{system.strip()}\n\n" if system.strip() else "", question=question)


def completion(reasoning: str, answer: str, tags: Tags) -> str:
    """A completion in the recipe's format: the reasoning block, a new line, the answer block."""
    return f"{tags.reasoning_start}{reasoning}{tags.reasoning_end}\n{tags.answer_start}{answer}{tags.answer_end}"
