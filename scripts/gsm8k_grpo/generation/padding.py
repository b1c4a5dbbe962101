"""To what lengths and numbers of rows batches are padded: a step costs what its text costs, few programs compile."""

import numpy as np

PROMPT_LENGTHS = 2  # each that comes up, of prompts and of completions, is a compilation
PACKED_SIZES = 8  # the same of the number of tokens that are left of a batch without its padding
# Of a model on a CPU. The recipe `tiny` (0.7 million) lost two minutes to compilations by it, and won nothing.
PACKED_FROM_PARAMETERS = 10_000_000


def padded_length(longest_tokens: int, max_tokens: int, parts: int) -> int:
    """To how many tokens rows are padded: to the least of `parts` equal parts of the limit that holds the longest."""
    return next(
        length
        for length in (-(-max_tokens * part // parts) for part in range(1, parts + 1))
        if length >= longest_tokens
    )


def prompt_copies(prompts: int, repeats: int, fsdp: int) -> int:
    """How often each of some prompts is computed for its `repeats` rows.

    Once, or so often that the mesh's axis `fsdp` divides the number of rows; where no number of copies does, once.
    """
    divisors = [copies for copies in range(1, repeats + 1) if repeats % copies == 0]
    return next((copies for copies in divisors if prompts * copies % fsdp == 0), 1)


def packed_places(mask: np.ndarray) -> np.ndarray | None:
    """Where tokens are that are no padding, row after row, filled up with `mask.size` to one of few sizes.

    Args:
      mask: [B, T] true where a token is no padding.

    Returns:
      [M] int32, or None where too little is padding.
    """
    size = padded_length(np.count_nonzero(mask), mask.size, PACKED_SIZES)
    if size == mask.size:
        return None
    places = np.full(size, mask.size, np.int32)
    found = np.flatnonzero(mask)
    places[: len(found)] = found
    return places
