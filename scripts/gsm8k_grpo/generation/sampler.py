"""Generation through Tunix's sampler: rollouts for training, greedy completions for evaluation."""

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
from gsm8k_grpo.generation import cache_size, next_token, padding
from gsm8k_grpo.generation.cache_size import cache_capacities, cache_tokens
from gsm8k_grpo.models import attention, matmul_order
from gsm8k_grpo.models.hidden_states import output_logits, prefill
from gsm8k_grpo.models.lora import can_merge, merge_adapters

HALVINGS = 3


@dataclasses.dataclass(frozen=True)
class DrawingOptions:
    """What programs are compiled for: limit and stop tokens of completions, how tokens are drawn (0 is greedily)."""

    max_completion_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float
    top_k: int | None
    top_p: float


@flax.struct.dataclass
class DecodingState:
    """Between programs.

    Attributes:
      tokens: [B, max_completion_tokens] of the completions.
      drawn: how many of them are drawn, in all rows alike; those after a row's stop token mean nothing.
      done: [B] which rows have drawn a stop token.
      keys: [B] of their noise.
      padding: [B] places of padding before the prompts.
      cache: of `attention.empty_cache`, with all tokens but the newest; as long as `rooms` says.
    """

    tokens: jax.Array
    drawn: jax.Array
    done: jax.Array
    keys: jax.Array
    padding: jax.Array
    cache: dict


class Sampler(tunix_sampler.Sampler):
    """Tunix's sampler with programs of our own, which pay for the tokens that are there.

    - A prompt is computed once for all its rows, with logits of its last place alone, and no longer than it must be.
    - Decoding ends with the last row. Where many tokens may follow, rows that are done make room: a smaller batch goes
      on. A row draws the same in any batch.
    - Each row has noise of its own, from its own key: what is drawn for it does not depend on its neighbours.
    - The padding token is never drawn: everything downstream tells tokens from padding by it.
    - The stop token that a row drew stays at the end of its tokens (not of its text). Stock cuts it off, so that a
      model is never trained to stop.
    - The KV cache is born in its shards, not on the first device. Of long completions it has room for half of the limit
      until a row comes so far: every token attends to all of it.
    - Weights that are sharded over `fsdp` are gathered once a program, not again for every token.
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
        """Keep what this makes: each new sampler compiles anew.

        Args:
          cache_tokens: the most that a prompt and its completion take.
          gather_weights: whether the decoding loop has whole copies of the weights along `fsdp` (sharded over `tp`
            still), for as long as it lasts. Where there is no memory for them, each token gathers them layer by layer.
          lora: as `models.with_lora` got it. Where `models.merges`, programs begin with merging adapters: a product of
            one takes as long there as of a weight. None leaves them where they are.
          for_cpu: whether programs are made as a CPU's compiler is fast at them (products.py); None: where the mesh is
            of CPUs.
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
        self.prefill = jax.jit(self._prefill, static_argnames=("copies", "room", "how"))
        self.decode = jax.jit(self._decode, static_argnames="how", donate_argnames="state")
        self._take = jax.jit(self._taken)
        self._grow = jax.jit(self._grown, static_argnames="more")

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
    ) -> base_sampler.SamplerOutput:
        """Completes prompts; arguments and output are Tunix's, but for these.

        Args:
          seed: [B] keys of the rows (greedy: none are needed).
          repeats: how many prompts beside each other are equal, all over the batch: they are computed once.

        Returns:
          `tokens`: each row's up to and including the stop token, where the limit did not cut them;
          `padded_prompt_tokens`: [B, max_prompt_length].

        Raises:
          PipelineError: a prompt of more than `max_prompt_length` tokens.
        """
        if [text for text in input_strings[::repeats] for _ in range(repeats)] != list(input_strings):
            raise ValueError(f"prompts that are not in groups of {repeats} equal ones")
        prompts = [self.tokenize(text) for text in input_strings[::repeats]]
        longest = max(map(len, prompts))
        max_prompt_length = max_prompt_length or longest
        if longest > max_prompt_length:
            raise PipelineError(
                f"prompt.max_tokens: a prompt of {longest} tokens is longer than {max_prompt_length}; "
                "make the prompts again with --forcerun prompts"
            )
        if max_prompt_length + max_generation_steps > self.cache_config.cache_size:
            raise ValueError(f"{max_prompt_length} + {max_generation_steps} tokens: more than the cache may hold")
        ids = np.full((len(prompts), max_prompt_length), self.tokenizer.pad_id(), np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[max_prompt_length - len(prompt) :] = prompt
        stop_ids = tuple(eos_tokens or (self.tokenizer.eos_id(),))
        greedy = top_p is None
        how = DrawingOptions(
            max_generation_steps, stop_ids, 0.0 if greedy else temperature, top_k, 1.0 if greedy else top_p
        )
        keys = jax.random.split(jax.random.key(0), len(input_strings)) if seed is None else seed
        length = padding.padded_length(longest, max_prompt_length, padding.PROMPT_LENGTHS)
        drawn = self._complete(ids[:, max_prompt_length - length :], keys, how)
        ends = [np.flatnonzero(np.isin(row, stop_ids))[:1] for row in drawn]
        tokens = [row[: end[0] + 1] if len(end) else row for row, end in zip(drawn, ends, strict=True)]
        return base_sampler.SamplerOutput(
            text=[
                self.tokenizer.decode(row[: len(row) - len(end)].tolist())
                for row, end in zip(tokens, ends, strict=True)
            ],
            logits=[],
            tokens=tokens,
            padded_prompt_tokens=np.repeat(ids, repeats, axis=0),
            logprobs=None,
        )

    def _complete(self, prompt_ids: np.ndarray, keys: jax.Array, how: DrawingOptions) -> np.ndarray:
        """[B, max_completion_tokens] tokens for [B / repeats, P] prompts and [B] keys."""
        weights, limit = self._flattened_transformer_state, how.max_completion_tokens
        *longer, room = reversed(cache_capacities(limit))
        copies = padding.prompt_copies(len(prompt_ids), len(keys) // len(prompt_ids), self._mesh.shape["fsdp"])
        state = self.prefill(
            weights,
            np.repeat(prompt_ids, copies, axis=0),
            keys,
            copies=len(keys) // len(prompt_ids) // copies,
            room=room,
            how=how,
        )
        found, rows, drawn = np.zeros((len(keys), limit), np.int32), np.arange(len(keys)), 1
        sizes = self._batch_sizes(len(keys))
        while True:
            smaller = max((size for size in sizes if size < len(rows)), default=0)
            left = smaller if limit - drawn >= cache_size.WORTH_A_PROGRAM_TOKENS else 0
            state = self.decode(weights, state, np.int32(left), np.int32(room), how=how)
            drawn, done = int(state.drawn), np.asarray(state.done)
            found[rows] = np.asarray(state.tokens)
            if drawn == limit or done.all():
                return found
            size = min(size for size in sizes if size >= np.count_nonzero(~done))
            if size < len(rows):
                kept = np.argsort(done, kind="stable")[:size]  # those that go on; then some that are done fill it up
                state, rows = self._take(state, kept), rows[kept]
            if drawn == room:
                places = cache_tokens(prompt_ids.shape[1], room)
                room = longer.pop()
                state = self._grow(state, more=cache_tokens(prompt_ids.shape[1], room) - places)

    def _batch_sizes(self, rows: int) -> list[int]:
        """With how many rows decoding may go on: all, a half, and so on, sharded over `fsdp` as all of them are."""
        fsdp = self._mesh.shape["fsdp"]
        sizes = [rows]
        while len(sizes) <= HALVINGS and sizes[-1] % 2 == 0 and (rows % fsdp or sizes[-1] // 2 % fsdp == 0):
            sizes.append(sizes[-1] // 2)
        return sizes

    def _prefill(
        self, weights: object, prompt_ids: jax.Array, keys: jax.Array, *, copies: int, room: int, how: DrawingOptions
    ) -> DecodingState:
        """Computes left-padded prompts, [B / copies, P], and draws the first token of each row's at most `room`."""
        model = self._model(weights)
        tokens = cache_tokens(prompt_ids.shape[1], room) - prompt_ids.shape[1]
        hidden, real, cache = prefill(model, prompt_ids, self.tokenizer.pad_id())
        state = DecodingState(
            tokens=jnp.zeros((len(keys), how.max_completion_tokens), jnp.int32),
            drawn=jnp.int32(0),
            done=jnp.zeros(len(keys), bool),
            keys=keys,
            padding=jnp.repeat(jnp.sum(~real, axis=1), copies),
            cache=attention.repeat_and_extend(cache, copies, tokens),
        )
        logits = jnp.repeat(output_logits(model, hidden)[:, 0], copies, axis=0)
        return self._in_place(self._with_next(state, logits, state.cache, how))

    def _decode(
        self, weights: object, state: DecodingState, rows_left: jax.Array, room: jax.Array, *, how: DrawingOptions
    ) -> DecodingState:
        """Draws a token of each row a round until there are `room`, or no more than `rows_left` rows are not done."""
        if self._gathered:
            weights = jax.tree.map(self._without_fsdp, weights, self._flattened_transformer_state)
        graph, weights = nnx.split(self._model(weights))
        leaves, structure = jax.tree.flatten(weights)

        def next_logits(leaves: list, newest: jax.Array, places: jax.Array, cache: dict, seen: jax.Array) -> tuple:
            # Put together in the loop: Qwix notes things on the model.
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
            return (state.drawn < room) & (jnp.sum(~state.done) > rows_left)

        def step(state: DecodingState) -> DecodingState:
            logits, cache = next_logits(leaves, *inputs(state))
            return self._with_next(state, logits[:, 0], cache, how)

        return self._in_place(jax.lax.while_loop(goes_on, step, state))

    def _model(self, weights: object) -> nnx.Module:
        """What computes, within a program."""
        model = nnx.merge(self._transformer_graphdef, weights)
        return merge_adapters(model, self._merged_lora) if self._merged_lora else model

    def _with_next(self, state: DecodingState, logits: jax.Array, cache: dict, how: DrawingOptions) -> DecodingState:
        """The state after a token more in each row, drawn from logits [B, V]."""
        logits = self.next_token_logits(logits, state.keys, state.drawn)
        if how.temperature:
            keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.drawn)
            newest = next_token.sample_token(logits, keys, how.temperature, how.top_k, how.top_p)
        else:
            newest = next_token.most_likely(logits)
        return state.replace(
            tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, newest[:, None], state.drawn, axis=1),
            drawn=state.drawn + 1,
            done=state.done | jnp.isin(newest, jnp.array(how.stop_ids)),
            cache=cache,
        )

    def next_token_logits(self, logits: jax.Array, keys: jax.Array, position: jax.Array) -> jax.Array:
        """What tokens are drawn from, at `position` of the completion: logits [B, V] without the padding token.

        Args:
          keys: [B] of the rows, which tell them apart.
        """
        del keys, position
        return logits.at[:, self.tokenizer.pad_id()].set(-jnp.inf)

    def _taken(self, state: DecodingState, rows: jax.Array) -> DecodingState:
        """The state of some rows, which may be in any order."""
        return self._in_place(jax.tree.map(lambda leaf: leaf[rows] if leaf.ndim else leaf, state))

    def _grown(self, state: DecodingState, *, more: int) -> DecodingState:
        """The same state with room for `more` tokens in the cache."""
        return self._in_place(state.replace(cache=attention.repeat_and_extend(state.cache, 1, more)))

    def _in_place(self, state: DecodingState) -> DecodingState:
        """The state where it belongs: caches in their shards; tokens whole in every process of a multi-host run."""
        rows = len(state.done)
        cache = jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, self._cache_sharding(leaf, rows)), state.cache
        )
        whole = NamedSharding(self._mesh, PartitionSpec())
        tokens, drawn, done = (
            jax.lax.with_sharding_constraint(each, whole) for each in (state.tokens, state.drawn, state.done)
        )
        return state.replace(tokens=tokens, drawn=drawn, done=done, cache=cache)

    def _cache_sharding(self, leaf: jax.ShapeDtypeStruct, batch_size: int) -> NamedSharding:
        """By rows (fsdp) and KV heads (tp)."""
        rows = "fsdp" if batch_size % self._mesh.shape["fsdp"] == 0 else None
        spec = PartitionSpec(rows, "tp", None, None) if leaf.ndim == 4 else PartitionSpec()
        return NamedSharding(self._mesh, spec)

    def _without_fsdp(self, traced: jax.Array, stored: jax.Array) -> jax.Array:
        """A weight, sharded as it is stored but for the axis `fsdp`."""
        return jax.lax.with_sharding_constraint(traced, self._decoded_sharding(stored))

    def _decoded_sharding(self, stored: jax.Array) -> jax.sharding.Sharding:
        if not self._gathered or not isinstance(stored.sharding, NamedSharding):
            return stored.sharding
        return NamedSharding(self._mesh, PartitionSpec(*(_without_axis("fsdp", axes) for axes in stored.sharding.spec)))

    def decoded_weight_bytes(self) -> int:
        """Bytes of all weights on each device, as the decoding loop has them."""
        return sum(
            math.prod(self._decoded_sharding(leaf).shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(self._flattened_transformer_state)
        )

    def lower_prefill(self, rows: int, repeats: int, max_prompt_tokens: int, how: DrawingOptions) -> jax.stages.Lowered:
        """The program of prompts as long as they may be, with the longest cache; without values, for another device."""
        copies = padding.prompt_copies(rows // repeats, repeats, self._mesh.shape["fsdp"])
        return self.prefill.lower(
            self._flattened_transformer_state,
            jax.ShapeDtypeStruct((rows // repeats * copies, max_prompt_tokens), jnp.int32),
            jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows)),
            copies=repeats // copies,
            room=how.max_completion_tokens,
            how=how,
        )

    def lower_decode(self, state: DecodingState, how: DrawingOptions) -> jax.stages.Lowered:
        """The program that goes on after that one; `state` has its output's shapes and shardings."""
        number = jax.ShapeDtypeStruct((), jnp.int32)
        return self.decode.lower(self._flattened_transformer_state, state, number, number, how=how)

    def abstract_state(self, prefill: jax.stages.Lowered) -> DecodingState:
        """What a lowered prefill returns, without values, its cache sharded as it will be."""
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), prefill.out_info)
        cache = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self._cache_sharding(leaf, state.done.shape[0])
            ),
            state.cache,
        )
        return state.replace(cache=cache)


def _without_axis(axis: str, axes: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """One dimension's mesh axes, without one of them."""
    return tuple(each for each in axes if each != axis) if isinstance(axes, tuple) else None if axes == axis else axes
