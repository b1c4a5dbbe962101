"""Cuts an evaluation's prompts into batches and completes them."""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import Mesh

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


def plan_batches(prompts: list[str], samples: int, batch_size: int) -> list[list[tuple[int, int]]]:
    """Cuts an evaluation into batches of (index of the prompt, number of the sample), longest prompts first.

    Prompts of similar length share a batch. The result depends on the arguments alone, so that a stopped evaluation can
    go on with the remaining batches.
    """
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    rows = [(index, sample) for index in order for sample in range(samples)]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def complete_batch(
    sampler: Sampler,
    prompts: list[str],
    batch: list[tuple[int, int]],
    batch_size: int,
    decoding: Decoding,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    stop_ids: tuple[int, ...],
    mesh: Mesh,
    samples: int = 1,
) -> list[Completion]:
    """Completes one batch of `plan_batches`.

    A smaller batch is filled up to `batch_size` rows and prompts have few padded lengths, so that few programs serve
    all. A row's noise derives from the seed, its prompt's index and its sample's number.

    Args:
      samples: as in `plan_batches`; samples of one prompt that share a batch share its computation.
    """
    filled = batch + [batch[-1]] * (batch_size - len(batch))
    rows = np.array(filled)
    key = jax.random.key(decoding.seed)
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))(rows)
    sampled = decoding.temperature > 0
    with mesh:
        output = sampler(
            [prompts[index] for index, _ in filled],
            max_generation_steps=max_completion_tokens,
            max_prompt_length=max_prompt_tokens,
            eos_tokens=list(stop_ids),
            temperature=decoding.temperature if sampled else 1.0,
            # In Tunix, top_p None means greedy decoding; temperature 0 does not.
            top_p=decoding.top_p if sampled else None,
            top_k=decoding.top_k if sampled else None,
            seed=keys,
            repeats=math.gcd(samples, batch_size),
        )
    completions = []
    for text, tokens in zip(output.text[: len(batch)], output.tokens, strict=False):
        completions.append(Completion(text, len(tokens), tokens[-1] not in stop_ids))
    return completions
