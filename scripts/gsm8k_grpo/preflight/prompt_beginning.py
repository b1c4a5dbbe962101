"""With how many tokens all prompts of a recipe begin alike: samplers compute them once (`generation.shared_prefix`)."""

from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.models import families, tokenizers

CHARACTERS_PER_TOKEN = 4  # about so many in English
QUESTIONS = ("Ann has 3 figs.", "How many?")  # two that have no beginning in common


def common_tokens(settings: Mapping, tokenizer: Path | None) -> tuple[int, str]:
    """Counts them, or estimates them where the tokenizer is not on this machine.

    Args:
      settings: the blocks model and prompt.
      tokenizer: the base model's, if it is there.

    Returns:
      (tokens, including <bos>; how they were found).
    """
    prompt, template = settings["prompt"], families.family_of(settings["model"]["architecture"]).template
    texts = [build_prompt(prompt["system"], question, template, prompt["layout"]) for question in QUESTIONS]
    if tokenizer is None:
        estimate = _common(*texts) // CHARACTERS_PER_TOKEN
        return estimate, f"estimated, {CHARACTERS_PER_TOKEN} characters a token: the tokenizer is not there yet"
    loaded = tokenizers.load_tokenizer(tokenizer, template)
    return _common(
        *(tokenizers.with_bos(loaded, loaded.encode(text)) for text in texts)
    ), "by the base model's tokenizer"


def _common(first: str | list, second: str | list) -> int:
    """Counts with how many equal characters or tokens two sequences begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next(place for place, (one, other) in pairs if one != other)
