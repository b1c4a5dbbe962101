"""The beginning that all prompts share, such as an instruction with a worked example: it is computed once a queue.

Serving systems call this prefix caching (SGLang, arXiv 2312.07104).
"""

from collections.abc import Sequence

# Beginnings are cut to a multiple of this, so that a chance word that questions share makes no program of its own.
STEP_TOKENS = 32
WORTH_TOKENS = 512  # what must be saved over all prompts: less is not worth the program


def shared_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Finds the longest beginning that all prompts share and that leaves each of them a token.

    Returns:
      its tokens; none where too little is saved, as with one prompt alone.
    """
    texts = [tuple(map(int, prompt)) for prompt in prompts]
    first, last = min(texts), max(texts)  # what these two share, all between them share too
    places = range(min(map(len, texts)) - 1)
    common = next((place for place in places if first[place] != last[place]), len(places))
    return list(first[: computed_once(common, len(set(texts)))])


def computed_once(common_tokens: int, prompts: float) -> int:
    """How many of the first tokens that so many different prompts have in common are computed once for all."""
    shared = common_tokens - common_tokens % STEP_TOKENS
    return shared if shared * (prompts - 1) >= WORTH_TOKENS else 0
