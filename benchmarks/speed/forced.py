"""Forces the lengths of completions on the JAX side: a row draws the stop token at its last place and nowhere else.

Both samplers are controlled by the logits of the next token. The stop token's logit is above all others at a row's last
place and −∞ elsewhere. The row's length reaches that place in two ways:

- Our `Sampler` may prefill a prompt once for its whole group and drops finished rows from the batch: its place does not
  identify a row. Its key does: `Sampler.next_token_logits` gets it, and the length is a hash of it. The worker reports
  these lengths, and run.py has the others draw the same.
- Stock Tunix's sampler keeps rows in place: lengths [B] travel through its loops beside its seed.

A row whose length is the limit draws no stop token.
"""

import dataclasses

import jax
import jax.numpy as jnp
from tunix.generate import sampler as stock
from workloads import STOP, Workload


def force(logits: jax.Array, lengths: jax.Array, position: jax.Array, limit_tokens: int) -> jax.Array:
    """Changes the next token's logits [B, V] at `position` of the completion so that rows end after `lengths` [B]."""
    ends = (position == lengths - 1) & (lengths < limit_tokens)
    return logits.at[:, STOP].set(jnp.where(ends, 1e9, -jnp.inf))


def our_sampler(workload: Workload) -> type:
    """Our `Sampler`; its rows end after lengths that follow from their keys."""
    from gsm8k_grpo.generation.sampler import Sampler

    class Forced(Sampler):
        def next_token_logits(self, logits: jax.Array, keys: jax.Array, position: jax.Array) -> jax.Array:
            logits = super().next_token_logits(logits, keys, position)
            noise = jax.random.key_data(keys)[:, -1] % (workload.longest - workload.shortest + 1)
            return force(logits, workload.shortest + noise.astype(jnp.int32), position, workload.limit_tokens)

    return Forced


def stock_sampler(workload: Workload) -> type:
    """Tunix's `Sampler`; set its attribute `lengths` [B] before each call."""

    class Forced(stock.Sampler):
        lengths = None

        def __call__(self, *arguments: object, seed: object = None, **options: object) -> object:
            key = jax.random.PRNGKey(0)  # stock's key for a seed of None
            return super().__call__(*arguments, seed=(key, jnp.array(self.lengths, jnp.int32)), **options)

        def _sample(self, logits: jax.Array, eos: jax.Array, cache: dict, sampler_state: object) -> object:
            key, lengths = sampler_state.seed
            position = sampler_state.decoding_step + 1 - sampler_state.num_input_tokens
            logits = force(logits[:, -1], lengths, position, workload.limit_tokens)[:, None]
            drawn = super()._sample(logits, eos, cache, dataclasses.replace(sampler_state, seed=key))
            return dataclasses.replace(drawn, seed=(key, lengths))

    return Forced
