"""Chooses the padded sizes of batches: near the text's size, but few of them, because each is a compilation."""

import numpy as np

PROMPT_LENGTHS = 2  # the number of padded prompt lengths
PACKED_SIZES = 8  # the number of padded sizes of a batch's tokens without padding
# On a CPU, models from this size save more time by packing than its compilations take.
PACKED_FROM_PARAMETERS = 10_000_000


def padded_length(longest_tokens: int, max_tokens: int, parts: int) -> int:
    """Chooses the tokens to pad rows to: the least number of the limit's `parts` equal parts that holds the longest."""
    return next(
        length
        for length in (-(-max_tokens * part // parts) for part in range(1, parts + 1))
        if length >= longest_tokens
    )


def prompt_copies(prompts: int, repeats: int, fsdp: int) -> int:
    """Chooses how often to compute each prompt for its `repeats` rows.

    This is the least number of copies for which the mesh's axis `fsdp` divides the number of rows, or 1 without one.
    """
    divisors = [copies for copies in range(1, repeats + 1) if repeats % copies == 0]
    return next((copies for copies in divisors if prompts * copies % fsdp == 0), 1)


def packed_places(mask: np.ndarray) -> np.ndarray | None:
    """Lists the places of tokens that are not padding, row after row, filled up with `mask.size` to a padded size.

    Args:
      mask: [B, T] true where a token is not padding.

    Returns:
      [M] int32, or None where there is too little padding to save anything.
    """
    size = padded_length(np.count_nonzero(mask), mask.size, PACKED_SIZES)
    if size == mask.size:
        return None
    places = np.full(size, mask.size, np.int32)
    found = np.flatnonzero(mask)
    places[: len(found)] = found
    return places
