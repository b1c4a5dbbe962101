"""Which rows each training step takes, as a pure function of seed and step."""

import itertools

import numpy as np

from gsm8k_grpo.common.errors import PipelineError


def batch_rows(rows: list[dict], step: int, prompts_per_step: int, seed: int) -> list[dict]:
    """The rows of one step (0-based): epochs over all rows, each in an order of its own; a pure function of its inputs.

    Rows that do not fill a last batch of an epoch are left out of that epoch.
    """
    steps_per_epoch = len(rows) // prompts_per_step
    if not steps_per_epoch:
        raise PipelineError(
            f"training.prompts_per_step: {prompts_per_step} prompts a step, but only {len(rows)} rows to train on"
        )
    epoch, place = divmod(step, steps_per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(len(rows))
    return [rows[index] for index in order[place * prompts_per_step : (place + 1) * prompts_per_step]]


def replacement_rows(rows: list[dict], step: int, draw: int, taken: list[dict], count: int, seed: int) -> list[dict]:
    """The `count` rows of a step's later draw (1, 2, …), none of them among `taken`; where fewer are left, over again.

    Like `batch_rows` a pure function of its inputs.
    """
    order = np.random.default_rng((seed, step, draw)).permutation(len(rows))
    ids = {row["id"] for row in taken}
    others = [rows[index] for index in order if rows[index]["id"] not in ids]
    return list(itertools.islice(itertools.cycle(others), count))
