"""The beginning that all prompts share, such as an instruction with a worked example: it is computed once a queue.

Serving systems call this prefix caching (SGLang, arXiv 2312.07104).
"""

from collections.abc import Sequence

WORTH_TOKENS = 64  # a shorter beginning saves less than its own program costs


def shared_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Finds the longest beginning that all prompts share and that leaves each of them a token.

    Returns:
      its tokens; none where it is not worth a program of its own, as with one prompt alone.
    """
    texts = [tuple(map(int, prompt)) for prompt in prompts]
    first, last = min(texts), max(texts)  # what these two share, all between them share too
    places = range(min(map(len, texts)) - 1)
    shared = next((place for place in places if first[place] != last[place]), len(places))
    return list(first[:shared]) if shared >= WORTH_TOKENS and first != last else []
