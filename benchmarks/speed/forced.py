"""Forces the lengths of completions on the JAX side: a row draws the stop token at its last place and nowhere else.

Both samplers are controlled by the logits of the next token. The stop token's logit is above all others at a row's last
place and −∞ elsewhere. The row's length reaches that place in two ways:

- Our `Sampler` may prefill a prompt once for its whole group and drops finished rows from the batch: its place does not
  identify a row. Its key does: `Sampler.next_token_logits` gets it, and its last bits are the length.
- Stock Tunix's sampler keeps rows in place: lengths [B] travel through its loops beside its seed.

A row whose length is the limit draws no stop token.
"""

import dataclasses

import jax
import jax.numpy as jnp
from tunix.generate import sampler as stock
from workloads import Workload

LENGTH_BITS = 12


def force(logits: jax.Array, lengths: jax.Array, position: jax.Array, workload: Workload) -> jax.Array:
    """Changes the next token's logits [B, V] at `position` of the completion so that rows end after `lengths` [B]."""
    ends = (position == lengths - 1) & (lengths < workload.limit_tokens)
    return logits.at[:, workload.stop].set(jnp.where(ends, 1e9, -jnp.inf))


def our_sampler(workload: Workload) -> type:
    """Our `Sampler`; set the class's attribute `lengths` before each step, of all its rows in their order."""
    from gsm8k_grpo.generation.sampler import Sampler

    class Forced(Sampler):
        lengths: list[int] = ()

        def complete(self, prompts: list, keys: jax.Array, *arguments: object, **options: object) -> object:
            own, Forced.lengths = Forced.lengths[: len(prompts)], Forced.lengths[len(prompts) :]
            words = jax.random.key_data(keys)
            last = words[:, -1] >> LENGTH_BITS << LENGTH_BITS | jnp.array(own, words.dtype)
            keys = jax.random.wrap_key_data(words.at[:, -1].set(last), impl=jax.random.key_impl(keys))
            return super().complete(prompts, keys, *arguments, **options)

        def next_token_logits(self, logits: jax.Array, keys: jax.Array, position: jax.Array) -> jax.Array:
            logits = super().next_token_logits(logits, keys, position)
            lengths = jax.random.key_data(keys)[:, -1] & (2**LENGTH_BITS - 1)
            return force(logits, lengths.astype(jnp.int32), position, workload)

    return Forced


def stock_sampler(workload: Workload) -> type:
    """Tunix's `Sampler`; set its attribute `lengths` before each call, of all rows of the coming calls in order."""

    class Forced(stock.Sampler):
        lengths: list[int] = ()

        def __call__(
            self, input_strings: list[str], *arguments: object, seed: object = None, **options: object
        ) -> object:
            own, self.lengths = self.lengths[: len(input_strings)], self.lengths[len(input_strings) :]
            key = jax.random.PRNGKey(0)  # stock's key for a seed of None
            return super().__call__(input_strings, *arguments, seed=(key, jnp.array(own, jnp.int32)), **options)

        def _sample(self, logits: jax.Array, eos: jax.Array, cache: dict, sampler_state: object) -> object:
            key, lengths = sampler_state.seed
            position = sampler_state.decoding_step + 1 - sampler_state.num_input_tokens
            logits = force(logits[:, -1], lengths, position, workload)[:, None]
            drawn = super()._sample(logits, eos, cache, dataclasses.replace(sampler_state, seed=key))
            return dataclasses.replace(drawn, seed=(key, lengths))

    return Forced
