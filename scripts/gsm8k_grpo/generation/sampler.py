"""Generates completions through Tunix's sampler, for training's rollouts and for evaluation."""

import dataclasses
import math
from collections.abc import Mapping

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tunix.generate import base_sampler
from tunix.generate import sampler as tunix_sampler

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.generation import cache_length, next_token, padding
from gsm8k_grpo.generation.cache_length import cache_capacities, cache_tokens
from gsm8k_grpo.models import attention, matmul_order
from gsm8k_grpo.models.hidden_states import prefill
from gsm8k_grpo.models.layered import output_logits
from gsm8k_grpo.models.lora import can_merge, merge_adapters

HALVINGS = 3  # how often decoding may go on with half as many rows


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


@dataclasses.dataclass
class SamplerOutput(base_sampler.SamplerOutput):
    """Tunix's output, and what sampling left out.

    Attributes:
      unsampled: [B] float64 sums over each row's tokens of the probability that top_k and top_p left out.
    """

    unsampled: np.ndarray


@flax.struct.dataclass
class DecodingState:
    """The state of a batch between programs.

    Attributes:
      tokens: [B, max_completion_tokens] of the completions.
      drawn: the number of drawn tokens, equal in all rows; those after a row's stop token mean nothing.
      done: [B] which rows have drawn a stop token.
      keys: [B] of the rows' noise.
      padding: [B] the number of padding places before the prompts.
      unsampled: [B] sums over the rows' tokens of the probability that top_k and top_p left out; None without them.
      cache: of `attention.empty_cache`, with all tokens but the newest; `cache_capacities` says how long it is.
    """

    tokens: jax.Array
    drawn: jax.Array
    done: jax.Array
    keys: jax.Array
    padding: jax.Array
    unsampled: jax.Array | None
    cache: dict


class Sampler(tunix_sampler.Sampler):
    """Tunix's sampler with our own programs, whose cost follows the number of tokens.

    - A prompt is computed once for all its rows, with little padding, and only its last place gets logits.
    - Decoding ends when the last row is done. Where many tokens may follow, it goes on with a smaller batch of the rows
      that are not done.
    - Each row has its own noise, from its own key: its tokens do not depend on the batch.
    - The padding token is never drawn, because all later code tells tokens from padding by it.
    - A drawn stop token stays at the end of a row's tokens, but not of its text. Tunix cuts it off, so that a model
      never learns to stop.
    - The KV cache is created in its shards, not on the first device. For long completions it starts with half of the
      limit, because every token attends to all of it.
    - Weights that are sharded over `fsdp` are gathered once per program, not for every token.
    """

    def __init__(
        self,
        model: nnx.Module,
        tokenizer: object,
        cache_tokens: int,
        mesh: Mesh,
        gather_weights: bool = True,
        lora: Mapping | None = None,
        for_cpu: bool | None = None,
    ):
        """Keep the sampler: each new one compiles its programs again.

        Args:
          cache_tokens: the most that a prompt and its completion take.
          gather_weights: whether the decoding loop holds copies of the weights that are whole along `fsdp` (and still
            sharded over `tp`). Without memory for them, each token gathers them layer by layer.
          lora: as in `with_lora`. Where `can_merge` allows it, programs first merge the adapters, whose separate
            products are slow on a CPU. None never merges.
          for_cpu: whether to order products for a CPU (`matmul_order`); None: if the mesh is of CPUs.
        """
        config = model.config
        self._gathered = gather_weights and mesh.shape["fsdp"] > 1
        super().__init__(
            model,
            tokenizer,
            tunix_sampler.CacheConfig(cache_tokens, config.num_layers, config.num_kv_heads, config.head_dim),
        )
        self._mesh, self._for_cpu = mesh, matmul_order.on_cpu(mesh) if for_cpu is None else for_cpu
        merges = can_merge(lora, model.embedder.input_embedding.dtype, self._for_cpu)
        self._merged_lora = lora if merges else None
        self.prefill = jax.jit(self._prefill, static_argnames=("copies", "capacity", "options"))
        self.decode = jax.jit(self._decode, static_argnames="options", donate_argnames="state")
        self.select_rows = jax.jit(self._select_rows)
        self.grow_cache = jax.jit(self._grow_cache, static_argnames="tokens")

    def __call__(
        self,
        input_strings: list[str],
        max_generation_steps: int,
        max_prompt_length: int | None = None,
        eos_tokens: list[int] | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: jax.Array | None = None,
        repeats: int = 1,
    ) -> SamplerOutput:
        """Completes prompts. Arguments and output are Tunix's, with these differences.

        Args:
          seed: [B] keys of the rows; greedy decoding needs none.
          repeats: how many neighbouring prompts are equal, throughout the batch; each group is computed once.

        Returns:
          `tokens`: each row's tokens, including the stop token unless the limit cut the row off;
          `padded_prompt_tokens`: [B, max_prompt_length].

        Raises:
          PipelineError: a prompt has more than `max_prompt_length` tokens.
        """
        if [text for text in input_strings[::repeats] for _ in range(repeats)] != list(input_strings):
            raise ValueError(f"expected prompts in groups of {repeats} equal ones")
        prompts = [self.tokenize(text) for text in input_strings[::repeats]]
        longest = max(map(len, prompts))
        max_prompt_length = max_prompt_length or longest
        if longest > max_prompt_length:
            raise PipelineError(
                f"prompt.max_tokens: a prompt of {longest} tokens is longer than {max_prompt_length}; "
                "make the prompts again with --forcerun prompts"
            )
        if max_prompt_length + max_generation_steps > self.cache_config.cache_size:
            raise ValueError(f"{max_prompt_length} + {max_generation_steps} tokens are more than the cache can hold")
        ids = np.full((len(prompts), max_prompt_length), self.tokenizer.pad_id(), np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[max_prompt_length - len(prompt) :] = prompt
        stop_ids = tuple(eos_tokens or (self.tokenizer.eos_id(),))
        greedy = top_p is None
        options = DrawingOptions(
            max_generation_steps, stop_ids, 0.0 if greedy else temperature, top_k, 1.0 if greedy else top_p
        )
        keys = jax.random.split(jax.random.key(0), len(input_strings)) if seed is None else seed
        length = padding.padded_length(longest, max_prompt_length, padding.PROMPT_LENGTHS)
        drawn, unsampled = self._complete(ids[:, max_prompt_length - length :], keys, options)
        ends = [np.flatnonzero(np.isin(row, stop_ids))[:1] for row in drawn]
        tokens = [row[: end[0] + 1] if len(end) else row for row, end in zip(drawn, ends, strict=True)]
        return SamplerOutput(
            text=[
                self.tokenizer.decode(row[: len(row) - len(end)].tolist())
                for row, end in zip(tokens, ends, strict=True)
            ],
            logits=[],
            tokens=tokens,
            padded_prompt_tokens=np.repeat(ids, repeats, axis=0),
            logprobs=None,
            unsampled=unsampled,
        )

    def _complete(
        self, prompt_ids: np.ndarray, keys: jax.Array, options: DrawingOptions
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws [B, max_completion_tokens] tokens for [B / repeats, P] prompts and [B] keys.

        Returns:
          (the tokens, `SamplerOutput.unsampled`).
        """
        weights, limit = self._weights(), options.max_completion_tokens
        *larger_capacities, capacity = reversed(cache_capacities(limit))
        copies = padding.prompt_copies(len(prompt_ids), len(keys) // len(prompt_ids), self._mesh.shape["fsdp"])
        state = self.prefill(
            weights,
            np.repeat(prompt_ids, copies, axis=0),
            keys,
            copies=len(keys) // len(prompt_ids) // copies,
            capacity=capacity,
            options=options,
        )
        tokens, rows, drawn = np.zeros((len(keys), limit), np.int32), np.arange(len(keys)), 1
        unsampled = np.zeros(len(keys))
        sizes = self._batch_sizes(len(keys))
        while True:
            smaller = max((size for size in sizes if size < len(rows)), default=0)
            left = smaller if limit - drawn >= cache_length.WORTH_A_PROGRAM_TOKENS else 0
            state = self.decode(weights, state, np.int32(left), np.int32(capacity), options=options)
            drawn, done = int(state.drawn), np.asarray(state.done)
            tokens[rows] = np.asarray(state.tokens)
            if state.unsampled is not None:
                unsampled[rows] = np.asarray(state.unsampled)
            if drawn == limit or done.all():
                return tokens, unsampled
            size = min(size for size in sizes if size >= np.count_nonzero(~done))
            if size < len(rows):
                kept = np.argsort(done, kind="stable")[:size]  # all rows that go on, filled up with rows that are done
                state, rows = self.select_rows(state, kept), rows[kept]
            if drawn == capacity:
                places = cache_tokens(prompt_ids.shape[1], capacity)
                capacity = larger_capacities.pop()
                state = self.grow_cache(state, tokens=cache_tokens(prompt_ids.shape[1], capacity) - places)

    def _batch_sizes(self, rows: int) -> list[int]:
        """Lists with how many rows decoding may go on: all, half, and so on, if they are sharded over `fsdp` alike."""
        fsdp = self._mesh.shape["fsdp"]
        sizes = [rows]
        while len(sizes) <= HALVINGS and sizes[-1] % 2 == 0 and (rows % fsdp or sizes[-1] // 2 % fsdp == 0):
            sizes.append(sizes[-1] // 2)
        return sizes

    def _weights(self) -> object:
        """The model's variables as they are now, for programs."""
        return self.model_def_and_state()[1]

    def _prefill(
        self,
        weights: object,
        prompt_ids: jax.Array,
        keys: jax.Array,
        *,
        copies: int,
        capacity: int,
        options: DrawingOptions,
    ) -> DecodingState:
        """Computes left-padded prompts, [B / copies, P], and draws each row's first token.

        The cache has room for `capacity` completion tokens.
        """
        tokens = cache_tokens(prompt_ids.shape[1], capacity) - prompt_ids.shape[1]

        def compute(weights: object, prompt_ids: jax.Array) -> tuple:
            model = self._model(weights)
            model.loop_layers = self._for_cpu
            hidden, real, cache = prefill(model, prompt_ids, self.tokenizer.pad_id())
            return output_logits(model, hidden)[:, 0], real, cache

        compute = matmul_order.with_smaller_operand_first(compute) if self._for_cpu else compute
        logits, real, cache = compute(weights, prompt_ids)
        state = DecodingState(
            tokens=jnp.zeros((len(keys), options.max_completion_tokens), jnp.int32),
            drawn=jnp.int32(0),
            done=jnp.zeros(len(keys), bool),
            keys=keys,
            padding=jnp.repeat(jnp.sum(~real, axis=1), copies),
            unsampled=jnp.zeros(len(keys), jnp.float32) if options.limits_tokens else None,
            cache=attention.repeat_and_extend(cache, copies, tokens),
        )
        logits = jnp.repeat(logits, copies, axis=0)
        return self._constrain_shardings(self._append_token(state, logits, state.cache, options))

    def _decode(
        self,
        weights: object,
        state: DecodingState,
        rows_left: jax.Array,
        capacity: jax.Array,
        *,
        options: DrawingOptions,
    ) -> DecodingState:
        """Draws one token per row and round, until `capacity` are drawn or at most `rows_left` rows are not done."""
        if self._gathered:
            weights = jax.tree.map(self._without_fsdp, weights, self._weights())
        graph, weights = nnx.split(self._model(weights))
        leaves, structure = jax.tree.flatten(weights)

        def next_logits(leaves: list, newest: jax.Array, places: jax.Array, cache: dict, seen: jax.Array) -> tuple:
            # The model is merged inside the loop because Qwix writes attributes to it.
            model = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
            return model(newest, places, cache, seen)

        def inputs(state: DecodingState) -> tuple:
            newest = jax.lax.dynamic_slice_in_dim(state.tokens, state.drawn - 1, 1, axis=1)
            place = state.cache["layer_0"]["end_index"][0]
            places = jnp.arange(state.cache["layer_0"]["v"].shape[2])
            seen = (places <= place) & (places >= state.padding[:, None])
            return newest, (place - state.padding)[:, None], state.cache, seen[:, None]

        if self._for_cpu:
            next_logits = matmul_order.WeightsFirst(next_logits, leaves, *jax.eval_shape(inputs, state))
            leaves = next_logits.laid_out(leaves)

        def goes_on(state: DecodingState) -> jax.Array:
            return (state.drawn < capacity) & (jnp.sum(~state.done) > rows_left)

        def step(state: DecodingState) -> DecodingState:
            logits, cache = next_logits(leaves, *inputs(state))
            return self._append_token(state, logits[:, 0], cache, options)

        return self._constrain_shardings(jax.lax.while_loop(goes_on, step, state))

    def _model(self, weights: object) -> nnx.Module:
        """Makes the model that computes, within a program."""
        model = nnx.merge(self.model_def_and_state()[0], weights)
        return merge_adapters(model, self._merged_lora) if self._merged_lora else model

    def _append_token(
        self, state: DecodingState, logits: jax.Array, cache: dict, options: DrawingOptions
    ) -> DecodingState:
        """Draws the next token of each row from logits [B, V]."""
        logits, left_out = self.next_token_logits(logits, state.keys, state.drawn), None
        if options.temperature:
            keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.drawn)
            newest, left_out = next_token.sample_token(logits, keys, options.temperature, options.top_k, options.top_p)
        else:
            newest = next_token.most_likely(logits)
        return state.replace(
            tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, newest[:, None], state.drawn, axis=1),
            drawn=state.drawn + 1,
            done=state.done | jnp.isin(newest, jnp.array(options.stop_ids)),
            unsampled=None if left_out is None else state.unsampled + jnp.where(state.done, 0.0, left_out),
            cache=cache,
        )

    def next_token_logits(self, logits: jax.Array, keys: jax.Array, position: jax.Array) -> jax.Array:
        """Changes the logits, [B, V], that tokens are drawn from: rules out the padding token.

        Args:
          keys: [B] of the rows; a subclass can tell rows apart by them.
          position: of the token in the completion.
        """
        del keys, position
        return logits.at[:, self.tokenizer.pad_id()].set(-jnp.inf)

    def _select_rows(self, state: DecodingState, rows: jax.Array) -> DecodingState:
        """Takes the state of some rows, in any order."""
        return self._constrain_shardings(jax.tree.map(lambda leaf: leaf[rows] if leaf.ndim else leaf, state))

    def _grow_cache(self, state: DecodingState, *, tokens: int) -> DecodingState:
        """Adds room for `tokens` more tokens to the cache."""
        return self._constrain_shardings(state.replace(cache=attention.repeat_and_extend(state.cache, 1, tokens)))

    def _constrain_shardings(self, state: DecodingState) -> DecodingState:
        """Shards caches, and keeps whole what the host reads, so that every process of a multi-host run can read it."""
        rows = len(state.done)
        cache = jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, self._cache_sharding(leaf, rows)), state.cache
        )
        whole = NamedSharding(self._mesh, PartitionSpec())
        tokens, drawn, done, unsampled = jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, whole),
            (state.tokens, state.drawn, state.done, state.unsampled),
        )
        return state.replace(tokens=tokens, drawn=drawn, done=done, unsampled=unsampled, cache=cache)

    def _cache_sharding(self, leaf: jax.ShapeDtypeStruct, batch_size: int) -> NamedSharding:
        """Shards a cache's array by rows (fsdp) and KV heads (tp)."""
        rows = "fsdp" if batch_size % self._mesh.shape["fsdp"] == 0 else None
        spec = PartitionSpec(rows, "tp", None, None) if leaf.ndim == 4 else PartitionSpec()
        return NamedSharding(self._mesh, spec)

    def _without_fsdp(self, traced: jax.Array, stored: jax.Array) -> jax.Array:
        """Shards a weight as it is stored, except along `fsdp`."""
        return jax.lax.with_sharding_constraint(traced, self._decoded_sharding(stored))

    def _decoded_sharding(self, stored: jax.Array) -> jax.sharding.Sharding:
        if not self._gathered or not isinstance(stored.sharding, NamedSharding):
            return stored.sharding
        return NamedSharding(self._mesh, PartitionSpec(*(_without_axis("fsdp", axes) for axes in stored.sharding.spec)))

    def decoded_weight_bytes(self) -> int:
        """Counts the bytes of all weights on each device in the decoding loop."""
        return sum(
            math.prod(self._decoded_sharding(leaf).shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(self._weights())
        )

    def lower_prefill(
        self, rows: int, repeats: int, max_prompt_tokens: int, options: DrawingOptions
    ) -> jax.stages.Lowered:
        """Lowers the program of the longest prompts and the longest cache, without values, for another device."""
        copies = padding.prompt_copies(rows // repeats, repeats, self._mesh.shape["fsdp"])
        return self.prefill.lower(
            self._weights(),
            jax.ShapeDtypeStruct((rows // repeats * copies, max_prompt_tokens), jnp.int32),
            jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows)),
            copies=repeats // copies,
            capacity=options.max_completion_tokens,
            options=options,
        )

    def lower_decode(self, state: DecodingState, options: DrawingOptions) -> jax.stages.Lowered:
        """Lowers the program that follows `lower_prefill`; `state` has its output's shapes and shardings."""
        number = jax.ShapeDtypeStruct((), jnp.int32)
        return self.decode.lower(self._weights(), state, number, number, options=options)

    def abstract_state(self, prefill: jax.stages.Lowered) -> DecodingState:
        """Makes what a lowered prefill returns, without values, with the cache's shardings."""
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), prefill.out_info)
        cache = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self._cache_sharding(leaf, state.done.shape[0])
            ),
            state.cache,
        )
        return state.replace(cache=cache)


def _without_axis(axis: str, axes: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """Removes one mesh axis from a dimension's axes."""
    return tuple(each for each in axes if each != axis) if isinstance(axes, tuple) else None if axes == axis else axes
