"""Chooses how many tokens the KV cache has room for, and in how many parts its rows are refilled. No JAX here."""

import math

# Decoding goes on with fewer rows, and starts with half a cache, only where so many tokens may follow: each is one
# more program to compile.
WORTH_A_PROGRAM_TOKENS = 64
REFILLS = 8  # slots that have ended are refilled in so many parts


def cache_capacities(max_completion_tokens: int) -> tuple[int, ...]:
    """Lists the completion tokens that the cache has room for, in turn: half the limit where that pays, then all."""
    half = -(-max_completion_tokens // 2)
    if max_completion_tokens - half < WORTH_A_PROGRAM_TOKENS:
        return (max_completion_tokens,)
    return half, max_completion_tokens


def cache_tokens(max_prompt_tokens: int, max_completion_tokens: int) -> int:
    """Counts the KV cache's places for a prompt and a completion, rounded up to a multiple of 8."""
    return math.ceil((max_prompt_tokens + max_completion_tokens) / 8) * 8
