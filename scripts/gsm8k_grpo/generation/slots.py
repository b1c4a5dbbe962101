"""Completes a queue of prompts in slots: a row that ends gives its place to the next prompt (continuous batching).

Orca (Yu et al., OSDI 2022) schedules by the iteration in the same way. Here the host looks at the rows when an eighth
of the slots is free, so that prompts are computed in groups and each group is one size of program.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from gsm8k_grpo.generation import cache_length, padding
from gsm8k_grpo.generation.cache_length import cache_capacities, cache_tokens
from gsm8k_grpo.generation.decoding_state import DecodingState, DrawingOptions
from gsm8k_grpo.generation.shared_prefix import shared_prefix

HALVINGS = 3  # how often decoding may go on with half as many rows
FREE = -1  # in place of a row's index


@dataclasses.dataclass(frozen=True)
class Finished:
    """Rows that have ended together.

    Attributes:
      rows: their indices in the queue.
      tokens: of each row, with the stop token unless the limit cut it off.
      unsampled: [rows] float64 sums over each row's tokens of the probability that top_k and top_p left out.
    """

    rows: list[int]
    tokens: list[np.ndarray]
    unsampled: np.ndarray


def refill_rows(rows: int, slots: int, max_completion_tokens: int, fsdp: int) -> int:
    """Chooses how many slots are refilled at a time for a queue of so many rows.

    All of them where completions are short: refilling fewer needs programs of its own, which would not pay there.
    """
    if rows <= slots or max_completion_tokens < cache_length.WORTH_A_PROGRAM_TOKENS:
        return slots
    refilled = -(-slots // cache_length.REFILLS)
    return refilled if slots % fsdp else -(-refilled // fsdp) * fsdp


class Slots:
    """One pass over a queue. `finished` may be called once."""

    def __init__(
        self,
        sampler: object,
        prompts: Sequence[Sequence[int]],
        keys: jax.Array,
        options: DrawingOptions,
        max_prompt_tokens: int,
        slots: int,
        repeats: int,
    ):
        """
        Args:
          sampler: the `Sampler`, for its programs.
          prompts: the tokens of each row's prompt, in the order in which rows begin.
          keys: [rows] of their noise.
          options: how to draw.
          max_prompt_tokens: no prompt has more.
          slots: how many rows are decoded at a time.
          repeats: how many neighbours in the queue are equal, throughout.
        """
        fsdp = sampler.mesh.shape["fsdp"]
        self._sampler, self._prompts, self._keys, self._options = sampler, prompts, keys, options
        self._max_prompt_tokens, self._slots, self._fsdp = max_prompt_tokens, slots, fsdp
        self._refill = refill_rows(len(prompts), slots, options.max_completion_tokens, fsdp)
        self._repeats = math.gcd(repeats, slots, self._refill)  # for how many rows a prompt is computed once
        self._sizes = batch_sizes(slots, fsdp)
        self._queue = collections.deque(range(len(prompts)))
        self._rows = np.zeros(0, int)  # the row in each slot, or FREE
        self._state: DecodingState | None = None
        self._lengths = np.array([len(prompt) for prompt in prompts])
        # One row of a beginning cannot be sharded.
        self._prefix = shared_prefix(prompts) if fsdp == 1 else []
        self._prefix_cache: dict | None = None
        self._places: list[int] = []  # the sizes of the cache, shortest first

    def finished(self) -> Iterator[Finished]:
        """Decodes the whole queue; gives rows as they end."""
        sampler, options, weights = self._sampler, self._options, None
        while self._queue or self._state is not None:
            if self._state is not None and (ended := self._take_finished()):
                yield ended
            if self._fill():
                continue  # a first token can be the last
            live = self._rows != FREE
            if not live.any():
                return
            drawn = np.asarray(self._state.drawn)
            worth = options.max_completion_tokens - drawn[live].min() >= cache_length.WORTH_A_PROGRAM_TOKENS
            if worth and not self._refills():
                self._halve()
            self._resize()
            weights = sampler.weights_for_decoding(self._state) if weights is None else weights
            self._state = sampler.decode(weights, self._state, np.int32(self._rows_left(worth)), options=options)

    def _take_finished(self) -> Finished | None:
        """Takes out the rows that are done."""
        state = self._state
        done, drawn = np.asarray(state.done), np.asarray(state.drawn)
        slots = np.flatnonzero(done & (self._rows != FREE))
        if not len(slots):
            return None
        tokens = np.asarray(state.tokens)
        unsampled = np.zeros(len(slots)) if state.unsampled is None else np.asarray(state.unsampled, float)[slots]
        ended = Finished(self._rows[slots].tolist(), [tokens[slot, : drawn[slot]] for slot in slots], unsampled)
        self._rows[slots] = FREE
        return ended

    def _fill(self) -> bool:
        """Fills free slots with the next rows of the queue, if enough are free. Returns whether it did."""
        if not self._queue:
            return False
        sampler, options = self._sampler, self._options
        free = np.flatnonzero(self._rows == FREE)
        if len(free) == len(self._rows):  # also at the start
            rows, ids, keys = self._next(self._slots)
            filled = np.arange(self._slots) < len(rows)
            # Prompts of later refills enter the same cache.
            longest = self._lengths[[*rows, *(self._queue if self._refills() else ())]].max()
            length, capacities = self._padded(longest), cache_capacities(options.max_completion_tokens)
            self._places = [cache_tokens(length, capacity) for capacity in capacities]
            self._state = None  # frees its memory
            self._state = self._prefill(ids, keys, filled, self._places[0])
            self._rows = np.full(self._slots, FREE)
            self._rows[: len(rows)] = rows
            return True
        if not self._refills() or len(free) < min(self._refill, len(self._queue)):
            return False
        rows, ids, keys = self._next(self._refill)
        slots = free[: len(rows)]
        self._rows[slots] = rows
        new = self._prefill(ids, keys, np.ones(self._refill, bool), len(self._prefix) + ids.shape[1])
        repeated = np.concatenate([slots, np.full(self._refill - len(rows), slots[-1])])
        self._state = sampler.insert(self._state, new, repeated)
        return True

    def _refills(self) -> bool:
        """Whether slots are refilled while the others go on."""
        return bool(self._queue) and self._refill < self._slots

    def _next(self, size: int) -> tuple[list[int], np.ndarray, jax.Array]:
        """Takes the next rows, at most `size`, from the queue.

        Returns:
          (the rows, [size / repeats, P] left-padded prompts, or right-padded what follows the shared beginning, [size]
          keys); the last row fills up what is missing.
        """
        rows = [self._queue.popleft() for _ in range(min(size, len(self._queue)))]
        filled, shared = rows + [rows[-1]] * (size - len(rows)), len(self._prefix)
        places = self._padded(self._lengths[rows].max()) - shared
        ids = np.full((size // self._repeats, places), self._sampler.tokenizer.pad_id(), np.int32)
        for line, row in zip(ids, filled[:: self._repeats], strict=True):
            rest = self._prompts[row][shared:]
            line[slice(len(rest)) if shared else slice(places - len(rest), None)] = rest
        return rows, ids, self._keys[np.array(filled)]

    def _padded(self, tokens: int) -> int:
        """The padded length of prompts whose longest has so many tokens; a shared beginning is not padded."""
        shared = len(self._prefix)
        rest = padding.padded_length(tokens - shared, self._max_prompt_tokens - shared, padding.PROMPT_LENGTHS)
        return shared + rest

    def _prefill(self, ids: np.ndarray, keys: jax.Array, filled: np.ndarray, places: int) -> DecodingState:
        """Computes prompts, each as often as the mesh needs."""
        sampler, copies = self._sampler, padding.prompt_copies(len(ids), self._repeats, self._fsdp)
        if self._prefix and self._prefix_cache is None:
            self._prefix_cache = sampler.prefill_prefix(sampler.weights(), np.array([self._prefix], np.int32))
        return sampler.prefill(
            sampler.weights(),
            np.repeat(ids, copies, axis=0),
            keys,
            filled,
            copies=self._repeats // copies,
            places=places,
            options=self._options,
            prefix=self._prefix_cache,
        )

    def _halve(self) -> None:
        """Goes on with the fewest slots that hold the rows."""
        live = self._rows != FREE
        size = min(size for size in self._sizes if size >= np.count_nonzero(live))
        if size < len(live):
            kept = np.argsort(~live, kind="stable")[:size]  # all rows that go on, filled up with free slots
            self._state, self._rows = self._sampler.select_rows(self._state, kept), self._rows[kept]

    def _resize(self) -> None:
        """Makes the cache as long as the rows need, or shorter if that lasts for a while."""
        live, places = self._rows != FREE, self._state.places
        held = (self._lengths[self._rows] + np.asarray(self._state.drawn))[live].max()
        wanted = held if held > places else held + cache_length.WORTH_A_PROGRAM_TOKENS
        fitting = next((size for size in self._places if size >= wanted), places)
        if fitting < places or held > places:
            self._state = self._sampler.resize_cache(self._state, places=fitting)

    def _rows_left(self, worth: bool) -> int:
        """At how many unfinished rows decoding stops: where a refill or a halving can follow, else at 0."""
        if self._refills():
            return len(self._rows) - min(self._refill, len(self._queue))
        return max((size for size in self._sizes if size < len(self._rows)), default=0) if worth else 0


def batch_sizes(rows: int, fsdp: int) -> list[int]:
    """Lists with how many rows decoding may go on: all, half, and so on, if they are sharded over `fsdp` alike."""
    sizes = [rows]
    while len(sizes) <= HALVINGS and sizes[-1] % 2 == 0 and (rows % fsdp or sizes[-1] // 2 % fsdp == 0):
        sizes.append(sizes[-1] // 2)
    return sizes
