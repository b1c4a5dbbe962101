"""Completions of a given length on the JAX side: the stop token is drawn there, and nowhere else.

Both samplers are told by the logits that the next token is drawn from: the stop token's is raised above all others at a
row's last place and is −∞ elsewhere. How a row's length reaches that place differs:

- Ours (`Sampler`) may prefill a prompt once for its whole group and drop finished rows from the batch: a row's
  place in the batch says nothing. Its key does: each row has one of its own, which goes where the row goes, and
  `Sampler.next_token_logits` gets it. The length is a hash of the key. The worker reports the lengths that came out,
  and the others are made to draw the same (run.py).
- Stock Tunix's sampler keeps rows where they are: [B] lengths travel through its loops beside its seed.

Lengths of the limit itself mean that no stop token is drawn at all.
"""

import dataclasses

import jax
import jax.numpy as jnp
from tunix.generate import sampler as stock
from workloads import STOP, Workload


def force(logits: jax.Array, lengths: jax.Array, position: jax.Array, limit_tokens: int) -> jax.Array:
    """Logits [B, V] of the next token, at `position` in the completion, as rows of `lengths` [B] draw it."""
    ends = (position == lengths - 1) & (lengths < limit_tokens)
    return logits.at[:, STOP].set(jnp.where(ends, 1e9, -jnp.inf))


def our_sampler(workload: Workload) -> type:
    """`Sampler`, whose rows end after a length that their keys tell."""
    from gsm8k_grpo.generation.sampler import Sampler

    class Forced(Sampler):
        def next_token_logits(self, logits: jax.Array, keys: jax.Array, position: jax.Array) -> jax.Array:
            logits = super().next_token_logits(logits, keys, position)
            noise = jax.random.key_data(keys)[:, -1] % (workload.longest - workload.shortest + 1)
            return force(logits, workload.shortest + noise.astype(jnp.int32), position, workload.limit_tokens)

    return Forced


def stock_sampler(workload: Workload) -> type:
    """Tunix's `Sampler`; before each call, the attribute `lengths` [B] is set."""

    class Forced(stock.Sampler):
        lengths = None

        def __call__(self, *arguments: object, seed: object = None, **options: object) -> object:
            key = jax.random.PRNGKey(0)  # what stock makes of a seed of None
            return super().__call__(*arguments, seed=(key, jnp.array(self.lengths, jnp.int32)), **options)

        def _sample(self, logits: jax.Array, eos: jax.Array, cache: dict, sampler_state: object) -> object:
            key, lengths = sampler_state.seed
            position = sampler_state.decoding_step + 1 - sampler_state.num_input_tokens
            logits = force(logits[:, -1], lengths, position, workload.limit_tokens)[:, None]
            drawn = super()._sample(logits, eos, cache, dataclasses.replace(sampler_state, seed=key))
            return dataclasses.replace(drawn, seed=(key, lengths))

    return Forced
