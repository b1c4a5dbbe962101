"""How many tokens the KV cache has room for."""

import math

# Finished rows make room, and the cache begins half as long, where that program of its own may save so many tokens.
WORTH_A_PROGRAM_TOKENS = 64


def cache_capacities(max_completion_tokens: int) -> tuple[int, ...]:
    """For how many completion tokens the cache has room, one after the other: half of the limit where worth it, all."""
    half = -(-max_completion_tokens // 2)
    if max_completion_tokens - half < WORTH_A_PROGRAM_TOKENS:
        return (max_completion_tokens,)
    return half, max_completion_tokens


def cache_tokens(max_prompt_tokens: int, max_completion_tokens: int) -> int:
    """KV cache positions for a prompt and a completion, rounded up to a multiple of 8."""
    return math.ceil((max_prompt_tokens + max_completion_tokens) / 8) * 8
