"""Generates completions through Tunix's sampler, for training's rollouts and for evaluation."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tunix.generate import base_sampler
from tunix.generate import sampler as tunix_sampler

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.generation import next_token, padding
from gsm8k_grpo.generation.decoding_state import DecodingState, DrawingOptions
from gsm8k_grpo.generation.slots import Finished, Slots
from gsm8k_grpo.models import attention, matmul_order
from gsm8k_grpo.models.hidden_states import prefill, prefill_after
from gsm8k_grpo.models.layered import output_logits
from gsm8k_grpo.models.lora_merging import can_merge, merge_adapters


@dataclasses.dataclass
class SamplerOutput(base_sampler.SamplerOutput):
    """Tunix's output, and what sampling left out.

    Attributes:
      unsampled: [B] float64 sums over each row's tokens of the probability that top_k and top_p left out.
    """

    unsampled: np.ndarray


class Sampler(tunix_sampler.Sampler):
    """Tunix's sampler with our own programs, whose cost follows the number of tokens.

    - A prompt is computed once for all its rows, with little padding, and only its last place gets logits. The
      beginning that all prompts share is computed once for all of them.
    - A row that is done gives its slot to the next prompt (`slots`). Once no prompt waits, and where many tokens may
      follow, decoding goes on with a smaller batch of the rows that are not done.
    - Each row has its own noise, from its own key: its tokens do not depend on the batch.
    - The padding token is never drawn, because all later code tells tokens from padding by it.
    - A drawn stop token stays at the end of a row's tokens, but not of its text. Tunix cuts it off, so that a model
      never learns to stop.
    - The KV cache is created in its shards, not on the first device. For long completions it starts with half of the
      limit, because every token attends to all of it.
    - Decoding reads a copy of the weights that is made once a call: gathered from `fsdp`, with adapters merged, in the
      order of a CPU's products.
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
          gather_weights: whether decoding holds copies of the weights that are whole along `fsdp` (and still sharded
            over `tp`). Without memory for them, each token gathers them layer by layer.
          lora: as in `with_lora`. Where `can_merge` allows it, programs first merge the adapters, whose separate
            products are slow on a CPU. None never merges.
          for_cpu: whether to order products for a CPU (`matmul_order`); None: if the mesh is of CPUs.
        """
        config = self._config = model.config
        self._dtype = model.embedder.input_embedding.dtype
        self._gathered = gather_weights and mesh.shape["fsdp"] > 1
        super().__init__(
            model,
            tokenizer,
            tunix_sampler.CacheConfig(cache_tokens, config.num_layers, config.num_kv_heads, config.head_dim),
        )
        self.mesh, self._for_cpu = mesh, matmul_order.on_cpu(mesh) if for_cpu is None else for_cpu
        # XLA's CPU compiler cannot write one place of a bfloat16 array: it converts and copies the cache at each token.
        self._cache_dtype = jnp.float32 if self._for_cpu else self._dtype
        merges = can_merge(lora, self._dtype, self._for_cpu)
        self._merged_lora = lora if merges else None
        self.prefill = jax.jit(self._prefill, static_argnames=("copies", "places", "options"))
        self.prefill_prefix = jax.jit(self._prefill_prefix)
        self.lay_out = jax.jit(self._lay_out)
        self.decode = jax.jit(self._decode, static_argnames="options", donate_argnames="state")
        self.insert = jax.jit(self._insert, donate_argnames="state")
        self.select_rows = jax.jit(self._select_rows)
        self.resize_cache = jax.jit(self._resize_cache, static_argnames="places")
        self._next_logits = functools.cache(self._traced_next_logits)
        self._ordered: matmul_order.WeightsFirst | None = None  # lays weights out, alike for all states

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
        slots: int | None = None,
    ) -> SamplerOutput:
        """Completes prompts. Arguments and output are Tunix's, with these differences.

        Args:
          seed: [B] keys of the rows; greedy decoding needs none.
          repeats: how many neighbouring prompts are equal, throughout the batch; each group is computed once.
          slots: how many rows are decoded at a time; None is all.

        Returns:
          `tokens`: each row's tokens, including the stop token unless the limit cut the row off;
          `padded_prompt_tokens`: [B, max_prompt_length].

        Raises:
          PipelineError: a prompt has more than `max_prompt_length` tokens.
        """
        if [text for text in input_strings[::repeats] for _ in range(repeats)] != list(input_strings):
            raise ValueError(f"expected prompts in groups of {repeats} equal ones")
        prompts = [tokens for text in input_strings[::repeats] for tokens in [self.tokenize(text)] * repeats]
        max_prompt_length = max_prompt_length or max(map(len, prompts))
        greedy = top_p is None
        options = DrawingOptions(
            max_generation_steps,
            tuple(eos_tokens or (self.tokenizer.eos_id(),)),
            0.0 if greedy else temperature,
            top_k,
            1.0 if greedy else top_p,
        )
        keys = jax.random.split(jax.random.key(0), len(prompts)) if seed is None else seed
        slots = min(slots or len(prompts), len(prompts))
        tokens, unsampled = [np.zeros(0)] * len(prompts), np.zeros(len(prompts))
        for ended in self.complete(prompts, keys, options, max_prompt_length, slots, repeats):
            unsampled[ended.rows] = ended.unsampled
            for row, drawn in zip(ended.rows, ended.tokens, strict=True):
                tokens[row] = drawn
        return SamplerOutput(
            text=[self.text(row, options.stop_ids) for row in tokens],
            logits=[],
            tokens=tokens,
            padded_prompt_tokens=self.padded_prompts(prompts, max_prompt_length),
            logprobs=None,
            unsampled=unsampled,
        )

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        keys: jax.Array,
        options: DrawingOptions,
        max_prompt_tokens: int,
        slots: int,
        repeats: int = 1,
    ) -> Iterator[Finished]:
        """Completes a queue of prompts' tokens, `slots` at a time, and gives rows as they end; arguments as in `Slots`.

        Raises:
          PipelineError: a prompt has more than `max_prompt_tokens` tokens.
        """
        longest = max(map(len, prompts))
        if longest > max_prompt_tokens:
            raise PipelineError(
                f"prompt.max_tokens: a prompt of {longest} tokens is longer than {max_prompt_tokens}; "
                "make the prompts again with --forcerun prompts"
            )
        if max_prompt_tokens + options.max_completion_tokens > self.cache_config.cache_size:
            raise ValueError(
                f"{max_prompt_tokens} + {options.max_completion_tokens} tokens are more than the cache can hold"
            )
        return Slots(self, prompts, keys, options, max_prompt_tokens, slots, repeats).finished()

    def padded_prompts(self, prompts: Sequence[Sequence[int]], max_prompt_tokens: int) -> np.ndarray:
        """[B, max_prompt_tokens] the tokens of prompts, left-padded."""
        ids = np.full((len(prompts), max_prompt_tokens), self.tokenizer.pad_id(), np.int32)
        for line, prompt in zip(ids, prompts, strict=True):
            line[max_prompt_tokens - len(prompt) :] = prompt
        return ids

    def text(self, tokens: np.ndarray, stop_ids: tuple[int, ...]) -> str:
        """The text of a row's tokens, without the stop token."""
        ends = len(tokens) - 1 if tokens[-1] in stop_ids else len(tokens)
        return self.tokenizer.decode(tokens[:ends].tolist())

    def weights(self) -> object:
        """The model's variables as they are now, for programs."""
        return self.model_def_and_state()[1]

    @property
    def prepares_weights(self) -> bool:
        """Whether decoding needs copies of the weights: gathered, with adapters merged, or laid out for a CPU."""
        return self._gathered or self._for_cpu

    def weights_for_decoding(self, state: DecodingState) -> list[jax.Array]:
        """Makes what `decode` takes for weights, once for all programs from this state on."""
        if not self.prepares_weights:
            return jax.tree.leaves(self.weights())
        self._find_order(state)
        return self.lay_out(self.weights())

    def _find_order(self, state: DecodingState) -> None:
        """Finds how weights are laid out. The first state's trace tells it for all, and serves decoding too."""
        if self._for_cpu and not self._ordered:
            self._ordered = self._next_logits(state.done.shape[0], state.places)

    def _prefill(
        self,
        weights: object,
        prompt_ids: jax.Array,
        keys: jax.Array,
        filled: jax.Array,
        *,
        copies: int,
        places: int,
        options: DrawingOptions,
        prefix: dict | None = None,
    ) -> DecodingState:
        """Computes left-padded prompts, [B / copies, P], and draws each row's first token.

        Args:
          filled: [B] false where a row only fills up the batch; it is done.
          places: of the cache.
          prefix: of `prefill_prefix`; then `prompt_ids` has what follows it in each prompt, right-padded.
        """

        def compute(weights: object, prompt_ids: jax.Array, prefix: dict | None) -> tuple:
            model, pad_id = self._model_for_prompts(weights), self.tokenizer.pad_id()
            computed = (
                prefill(model, prompt_ids, pad_id)
                if prefix is None
                else prefill_after(model, prefix, prompt_ids, pad_id)
            )
            hidden, real, cache = computed
            return output_logits(model, hidden)[:, 0], real, cache

        compute = matmul_order.with_smaller_operand_first(compute) if self._for_cpu else compute
        logits, real, cache = compute(weights, prompt_ids, prefix)
        tokens = places - real.shape[1]
        state = DecodingState(
            tokens=jnp.zeros((len(keys), options.max_completion_tokens), jnp.int32),
            drawn=jnp.zeros(len(keys), jnp.int32),
            done=~filled,
            keys=keys,
            prompt_tokens=jnp.repeat(jnp.sum(real, axis=1, dtype=jnp.int32), copies),
            unsampled=jnp.zeros(len(keys), jnp.float32) if options.limits_tokens else None,
            cache=attention.repeat_and_extend(cache, copies, tokens, self._cache_dtype),
        )
        logits = jnp.repeat(logits, copies, axis=0)
        return self._constrain_shardings(self._append_token(state, logits, options))

    def _prefill_prefix(self, weights: object, ids: jax.Array) -> dict:
        """Computes the cache of [1, S] tokens with which all prompts begin."""

        def compute(weights: object, ids: jax.Array) -> dict:
            return prefill(self._model_for_prompts(weights), ids, self.tokenizer.pad_id())[2]

        return (matmul_order.with_smaller_operand_first(compute) if self._for_cpu else compute)(weights, ids)

    def _model_for_prompts(self, weights: object) -> nnx.Module:
        model = self._model(weights)
        model.loop_layers = self._for_cpu
        return model

    def _lay_out(self, weights: object) -> list[jax.Array]:
        """Gathers weights, merges adapters into them and lays them out as the decoding loop reads them."""
        if self._gathered:
            weights = jax.tree.map(self._without_fsdp, weights, self.weights())
        leaves = jax.tree.leaves(nnx.split(self._model(weights))[1])
        if self._ordered:
            leaves = self._ordered.laid_out(leaves)
        if shardings := self._laid_out_shardings():
            leaves = [jax.lax.with_sharding_constraint(*each) for each in zip(leaves, shardings, strict=True)]
        return leaves

    def _decode(
        self, weights: list[jax.Array], state: DecodingState, rows_left: jax.Array, *, options: DrawingOptions
    ) -> DecodingState:
        """Draws a token per row and round, until at most `rows_left` rows are not done or one needs a longer cache.

        Args:
          weights: of `weights_for_decoding`.
        """
        next_logits = self._next_logits(len(state.done), state.places)

        def goes_on(state: DecodingState) -> jax.Array:
            return (jnp.sum(~state.done) > rows_left) & jnp.all(state.done | (state.held <= state.places))

        def step(state: DecodingState) -> DecodingState:
            logits, cache = next_logits(weights, state.newest, state.held[:, None] - 1, state.cache, state.seen())
            return self._append_token(state.replace(cache=cache), logits[:, 0], options)

        return self._constrain_shardings(jax.lax.while_loop(goes_on, step, state))

    def _traced_next_logits(self, rows: int, places: int) -> Callable:
        """Makes the function from weights and the newest tokens to logits and the new cache."""
        graph, weights = self._structure
        leaves, structure = jax.tree.flatten(weights)

        def next_logits(leaves: list, newest: jax.Array, positions: jax.Array, cache: dict, seen: jax.Array) -> tuple:
            # The model is merged inside the loop because Qwix writes attributes to it.
            model = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
            return model(newest, positions, cache, seen)

        if not self._for_cpu:
            return next_logits
        one = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
        seen = jax.ShapeDtypeStruct((rows, 1, places), bool)
        cache = jax.eval_shape(lambda: attention.empty_cache(self._config, rows, places, self._cache_dtype))
        return matmul_order.WeightsFirst(next_logits, leaves, one, one, cache, seen)

    @functools.cached_property
    def _structure(self) -> tuple[nnx.GraphDef, nnx.State]:
        """The model that decodes, taken apart, its weights without values."""
        graph = None

        def split(weights: object) -> nnx.State:
            nonlocal graph
            graph, state = nnx.split(self._model(weights))
            return state

        state = jax.eval_shape(split, self.weights())
        return graph, state

    def _model(self, weights: object) -> nnx.Module:
        """Makes the model that computes, within a program."""
        model = nnx.merge(self.model_def_and_state()[0], weights)
        return merge_adapters(model, self._merged_lora) if self._merged_lora else model

    def _append_token(self, state: DecodingState, logits: jax.Array, options: DrawingOptions) -> DecodingState:
        """Draws the next token of each row from logits [B, V]."""
        logits, left_out = self.next_token_logits(logits, state.keys, state.drawn), None
        if options.temperature:
            keys = jax.vmap(jax.random.fold_in)(state.keys, state.drawn)
            newest, left_out = next_token.sample_token(logits, keys, options.temperature, options.top_k, options.top_p)
        else:
            newest = next_token.most_likely(logits)
        return state.append(newest, left_out, options)

    def next_token_logits(self, logits: jax.Array, keys: jax.Array, position: jax.Array) -> jax.Array:
        """Changes the logits, [B, V], that tokens are drawn from: rules out the padding token.

        Args:
          keys: [B] of the rows; a subclass can tell rows apart by them.
          position: [B] of the tokens in their completions.
        """
        del keys, position
        # Not `.at[].set`, which XLA's CPU compiler runs on one core.
        return jnp.where(jnp.arange(logits.shape[-1]) == self.tokenizer.pad_id(), -jnp.inf, logits)

    def _insert(self, state: DecodingState, new: DecodingState, rows: jax.Array) -> DecodingState:
        return self._constrain_shardings(state.insert(new, rows))

    def _select_rows(self, state: DecodingState, rows: jax.Array) -> DecodingState:
        return self._constrain_shardings(state.select(rows))

    def _resize_cache(self, state: DecodingState, *, places: int) -> DecodingState:
        return self._constrain_shardings(state.resize(places))

    def _constrain_shardings(self, state: DecodingState) -> DecodingState:
        """Shards caches, and keeps whole what the host reads, so that every process of a multi-host run can read it."""
        rows = len(state.done)
        cache = jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, self._cache_sharding(leaf, rows)), state.cache
        )
        whole = NamedSharding(self.mesh, PartitionSpec())
        rest = jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, whole), state.replace(cache=None, keys=None)
        )
        return rest.replace(keys=state.keys, cache=cache)

    def _cache_sharding(self, leaf: jax.ShapeDtypeStruct, batch_size: int) -> NamedSharding:
        """Shards a cache's array by rows (fsdp) and KV heads (tp)."""
        rows = "fsdp" if batch_size % self.mesh.shape["fsdp"] == 0 else None
        spec = PartitionSpec(rows, "tp", None, None) if leaf.ndim == 4 else PartitionSpec()
        return NamedSharding(self.mesh, spec)

    def _without_fsdp(self, traced: jax.Array, stored: jax.Array) -> jax.Array:
        """Shards a weight as it is stored, except along `fsdp`."""
        return jax.lax.with_sharding_constraint(traced, self._decoded_sharding(stored))

    def _decoded_sharding(self, stored: jax.Array) -> jax.sharding.Sharding:
        if not self._gathered or not isinstance(stored.sharding, NamedSharding):
            return stored.sharding
        return NamedSharding(self.mesh, PartitionSpec(*(_without_axis("fsdp", axes) for axes in stored.sharding.spec)))

    def _laid_out_shardings(self) -> list[NamedSharding] | None:
        """How `lay_out` shards its result; None on one device."""
        if self.mesh.size == 1:
            return None
        path_of = jax.tree_util.keystr
        stored = {path_of(path): leaf for path, leaf in jax.tree.leaves_with_path(self.transformer_state)}
        leaves = jax.tree.leaves_with_path(self._structure[1])
        unordered = [tuple(range(leaf.ndim)) for _, leaf in leaves]
        orders = self._ordered.dimension_orders() if self._ordered else unordered
        found = []
        for (path, leaf), order in zip(leaves, orders, strict=True):
            spec = getattr(self._decoded_sharding(stored[path_of(path)]), "spec", ())
            axes = [*spec, *[None] * (leaf.ndim - len(spec))]
            found.append(NamedSharding(self.mesh, PartitionSpec(*(axes[dimension] for dimension in order))))
        return found

    def decoded_weight_bytes(self) -> int:
        """Counts the bytes of all weights on each device in the decoding loop."""
        return sum(
            math.prod(self._decoded_sharding(leaf).shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(self.weights())
        )

    def lower_prefill_prefix(self, tokens: int) -> jax.stages.Lowered:
        """Lowers the program of so many tokens with which all prompts begin, without values, for another device."""
        return self.prefill_prefix.lower(self.weights(), jax.ShapeDtypeStruct((1, tokens), jnp.int32))

    def lower_prefill(
        self,
        rows: int,
        repeats: int,
        max_prompt_tokens: int,
        places: int,
        options: DrawingOptions,
        prefix: dict | None = None,
    ) -> jax.stages.Lowered:
        """Lowers the program of the longest prompts, without values, for another device.

        Args:
          prefix: what a lowered `prefill_prefix` returns (`abstract_cache`).
        """
        copies = padding.prompt_copies(rows // repeats, repeats, self.mesh.shape["fsdp"])
        shared = prefix["layer_0"]["v"].shape[2] if prefix else 0
        return self.prefill.lower(
            self.weights(),
            jax.ShapeDtypeStruct((rows // repeats * copies, max_prompt_tokens - shared), jnp.int32),
            jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows)),
            jax.ShapeDtypeStruct((rows,), bool),
            copies=repeats // copies,
            places=places,
            options=options,
            prefix=prefix,
        )

    def lower_lay_out(self, state: DecodingState) -> jax.stages.Lowered:
        """Lowers the program that makes decoding's weights for such a state; only where `prepares_weights`."""
        self._find_order(state)
        return self.lay_out.lower(self.weights())

    def lower_decode(self, state: DecodingState, options: DrawingOptions) -> jax.stages.Lowered:
        """Lowers the program that follows `lower_prefill`; `state` has its output's shapes and shardings."""
        weights = jax.tree.leaves(self.weights())
        if self.prepares_weights:
            found = self.lower_lay_out(state).out_info
            shardings = self._laid_out_shardings() or [None] * len(found)
            weights = [
                jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
                for leaf, sharding in zip(found, shardings, strict=True)
            ]
        return self.decode.lower(weights, state, jax.ShapeDtypeStruct((), jnp.int32), options=options)

    def abstract_state(self, prefill: jax.stages.Lowered) -> DecodingState:
        """Makes what a lowered prefill returns, without values, with the cache's shardings."""
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), prefill.out_info)
        return state.replace(cache=self.abstract_cache(state.cache, state.done.shape[0]))

    def abstract_cache(self, cache: dict, rows: int) -> dict:
        """Makes a cache of so many rows without values, with its shardings."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._cache_sharding(leaf, rows)), cache
        )


def _without_axis(axis: str, axes: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """Removes one mesh axis from a dimension's axes."""
    return tuple(each for each in axes if each != axis) if isinstance(axes, tuple) else None if axes == axis else axes
