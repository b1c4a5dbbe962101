"""Sizes that batches are padded to."""

import pytest

from gsm8k_grpo.generation import padding


@pytest.mark.parametrize(
    ("prompts", "repeats", "fsdp", "copies"),
    [(3, 4, 1, 1), (8, 4, 8, 1), (4, 4, 8, 2), (1, 4, 4, 4), (3, 6, 4, 1), (2, 6, 4, 2), (1, 6, 3, 3)],
)
def test_a_prompt_is_copied_as_often_as_the_mesh_needs(prompts, repeats, fsdp, copies):
    assert padding.prompt_copies(prompts, repeats, fsdp) == copies
