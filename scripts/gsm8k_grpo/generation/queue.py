"""Orders an evaluation's prompts and completes them."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from gsm8k_grpo.generation.decoding_state import DrawingOptions
from gsm8k_grpo.generation.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class Completion:
    """A completion: its text without the stop token, its tokens including it, and whether the limit cut it off."""

    text: str
    tokens: int
    truncated: bool


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How evaluation chooses tokens: greedily at temperature 0, else among the `top_k` and `top_p` likeliest."""

    temperature: float
    top_k: int | None
    top_p: float
    seed: int


def plan_queue(prompts: list[str], samples: int) -> list[tuple[int, int]]:
    """Lists (index of the prompt, number of the sample), longest prompts first: neighbours need little padding."""
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    return [(index, sample) for index in order for sample in range(samples)]


def complete_queue(
    sampler: Sampler,
    prompts: list[str],
    queue: list[tuple[int, int]],
    slots: int,
    decoding: Decoding,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    stop_ids: tuple[int, ...],
    mesh: Mesh,
    samples: int = 1,
) -> Iterator[dict[tuple[int, int], Completion]]:
    """Completes what `plan_queue` lists, or a part of it, `slots` rows at a time; gives rows as they end.

    A row's noise derives from the seed, its prompt's index and its sample's number, so its completion does not depend
    on the rows beside it.

    Args:
      samples: as in `plan_queue`; where all samples of each prompt are in the queue, they share its computation.
    """
    if not queue:
        return
    key, rows = jax.random.key(decoding.seed), np.array(queue)
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))(rows)
    drawn = (decoding.temperature, decoding.top_k, decoding.top_p) if decoding.temperature else (0.0, None, 1.0)
    options = DrawingOptions(max_completion_tokens, stop_ids, *drawn)
    tokens = {index: sampler.tokenize(prompts[index]) for index in {index for index, _ in queue}}
    whole = len(queue) == samples * len(tokens)
    with mesh:
        finished = sampler.complete(
            [tokens[index] for index, _ in queue], keys, options, max_prompt_tokens, slots, samples if whole else 1
        )
    while True:
        with mesh:  # not while the caller works
            ended = next(finished, None)
        if ended is None:
            return
        yield {
            queue[row]: Completion(sampler.text(drawn, stop_ids), len(drawn), drawn[-1] not in stop_ids)
            for row, drawn in zip(ended.rows, ended.tokens, strict=True)
        }
