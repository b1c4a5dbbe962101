"""What decoding keeps between its programs, and how rows enter and leave it."""

import dataclasses

import flax
import jax
import jax.numpy as jnp

from gsm8k_grpo.generation import next_token
from gsm8k_grpo.models import attention


@dataclasses.dataclass(frozen=True)
class DrawingOptions:
    """What programs are compiled for: limit and stop tokens of completions, how to draw (temperature 0: greedily)."""

    max_completion_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float
    top_k: int | None
    top_p: float

    @property
    def limits_tokens(self) -> bool:
        """Whether sampling leaves tokens out."""
        return self.temperature > 0 and next_token.limits_tokens(self.top_k, self.top_p)


@flax.struct.dataclass
class DecodingState:
    """The state of B rows between programs. Rows have different numbers of tokens.

    Attributes:
      tokens: [B, max_completion_tokens] of the completions.
      drawn: [B] the number of drawn tokens.
      done: [B] which rows have drawn a stop token or all their tokens; they draw no more.
      keys: [B] of the rows' noise.
      prompt_tokens: [B] of the prompts, without padding.
      unsampled: [B] sums over the rows' tokens of the probability that top_k and top_p left out; None without them.
      cache: of `attention.empty_cache`, with all tokens but the newest.
    """

    tokens: jax.Array
    drawn: jax.Array
    done: jax.Array
    keys: jax.Array
    prompt_tokens: jax.Array
    unsampled: jax.Array | None
    cache: dict

    @property
    def places(self) -> int:
        """How many tokens of each row the cache can hold."""
        return self.cache["layer_0"]["v"].shape[2]

    @property
    def newest(self) -> jax.Array:
        """[B, 1] the last tokens drawn."""
        return jnp.take_along_axis(self.tokens, self.drawn[:, None] - 1, axis=1)

    @property
    def held(self) -> jax.Array:
        """[B] the tokens of prompts and completions."""
        return self.prompt_tokens + self.drawn

    def seen(self) -> jax.Array:
        """[B, 1, S] which places of the cache the newest token sees, its own included."""
        return attention.token_ages(self.cache["layer_0"]) < self.held[:, None, None]

    def append(self, newest: jax.Array, left_out: jax.Array | None, options: DrawingOptions) -> "DecodingState":
        """Adds a token, [B], to each row that is not done.

        Args:
          left_out: [B] the probability of the tokens that top_k and top_p left out.
        """
        drawn = self.drawn + ~self.done
        here = ~self.done[:, None] & (jnp.arange(options.max_completion_tokens) == self.drawn[:, None])
        ends = jnp.isin(newest, jnp.array(options.stop_ids)) | (drawn == options.max_completion_tokens)
        return self.replace(
            tokens=jnp.where(here, newest[:, None], self.tokens),
            drawn=drawn,
            done=self.done | ends,
            unsampled=None if left_out is None else self.unsampled + jnp.where(self.done, 0.0, left_out),
        )

    def select(self, rows: jax.Array) -> "DecodingState":
        """Takes some rows, in any order."""
        return jax.tree.map(lambda leaf: leaf[rows], self)

    def insert(self, new: "DecodingState", rows: jax.Array) -> "DecodingState":
        """Replaces rows, [R], by the rows of `new`, whose cache is full. Where `rows` repeats, so must they."""
        cache = attention.insert(self.cache, new.cache, rows)
        replaced = jax.tree.map(
            lambda leaf, given: leaf.at[rows].set(given), self.replace(cache=None), new.replace(cache=None)
        )
        return replaced.replace(cache=cache)

    def resize(self, places: int) -> "DecodingState":
        """Moves the cache into one of so many places."""
        return self.replace(cache=attention.resize(self.cache, places))
