"""Which rows each training step uses, as pure functions of the seed and the step (0-based)."""

import itertools

import numpy as np

from gsm8k_grpo.common.errors import PipelineError


def batch_rows(rows: list[dict], step: int, prompts_per_step: int, seed: int) -> list[dict]:
    """The rows of one step. Each epoch goes through all rows in an order of its own.

    An epoch leaves out the rows that do not fill its last batch.

    Raises:
      PipelineError: there are fewer rows than `prompts_per_step`.
    """
    steps_per_epoch = len(rows) // prompts_per_step
    if not steps_per_epoch:
        raise PipelineError(
            f"training.prompts_per_step: expected at most the {len(rows)} rows to train on, found {prompts_per_step}; "
            "lower it or train on more rows"
        )
    epoch, batch = divmod(step, steps_per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(len(rows))
    return [rows[index] for index in order[batch * prompts_per_step : (batch + 1) * prompts_per_step]]


def replacement_rows(rows: list[dict], step: int, draw: int, used: list[dict], count: int, seed: int) -> list[dict]:
    """The `count` rows of a step's later draw (1, 2, …), without those in `used`; repeated if fewer are left."""
    order = np.random.default_rng((seed, step, draw)).permutation(len(rows))
    used_ids = {row["id"] for row in used}
    others = [rows[index] for index in order if rows[index]["id"] not in used_ids]
    return list(itertools.islice(itertools.cycle(others), count))
