"""Generation through Tunix's sampler: rollouts for training, greedy completions for evaluation."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tunix.generate import base_sampler
from tunix.generate import sampler as tunix_sampler
from tunix.rl import common
from tunix.rl.rollout import base_rollout, vanilla_rollout

from gsm8k_grpo.errors import PipelineError


@dataclasses.dataclass(frozen=True)
class Completion:
    """One generated completion: its text without the stop token, its length with it, and whether the limit cut it."""

    text: str
    tokens: int
    truncated: bool


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How evaluation picks tokens: greedily at temperature 0, else among the `top_k` and `top_p` likeliest."""

    temperature: float
    top_k: int | None
    top_p: float
    seed: int


class Sampler(tunix_sampler.Sampler):
    """Tunix's sampler with the faults of 0.1.7 mended that change what is drawn or where it lies.

    - Each row has noise of its own, from its own key: what is drawn for it does not depend on its neighbours.
    - The padding token is never drawn: everything downstream tells tokens from padding by it.
    - The stop token that a row drew stays at the end of its tokens (not of its text). Stock cuts it off, so that a
      model is never trained to stop.
    - The KV cache is born in its shards, not on the first device.
    - Weights that are sharded over `fsdp` are gathered once a call, not again for every token.
    """

    def __init__(
        self, model: nnx.Module, tokenizer: object, cache_tokens: int, mesh: Mesh, gather_weights: bool = True
    ):
        """Keep what this makes: each new sampler compiles anew.

        Args:
          gather_weights: whether the decoding loop has whole copies of the weights along `fsdp` (sharded over `tp`
            still), for as long as it lasts. Where there is no memory for them, each token gathers them layer by layer.
        """
        config = model.config
        self._gathered = gather_weights and mesh.shape["fsdp"] > 1
        super().__init__(
            model,
            tokenizer,
            tunix_sampler.CacheConfig(cache_tokens, config.num_layers, config.num_kv_heads, config.head_dim),
        )
        self._mesh = mesh
        self._whole = jax.jit(lambda array: array, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._decode, self._compiled_decode_fn = self._compiled_decode_fn, self._decode_whole

    def __call__(self, *args, **kwargs) -> base_sampler.SamplerOutput:
        """As Tunix's, with each row's tokens up to and including the stop token, where the limit did not cut them."""
        output = super().__call__(*args, **kwargs)
        drawn = np.asarray(self._tokens)[:, output.padded_prompt_tokens.shape[1] :]
        output.tokens = [row[: len(cut) + 1] for row, cut in zip(drawn, output.tokens, strict=True)]
        return output

    def _decode_fn(self, params: object, sampling_state: object) -> object:
        """Tunix's loop of one token a round, with the weights gathered before it."""
        if self._gathered:
            params = jax.tree.map(self._without_fsdp, params, self._flattened_transformer_state)
        return super()._decode_fn(params, sampling_state)

    def _without_fsdp(self, traced: jax.Array, stored: jax.Array) -> jax.Array:
        """A weight, sharded as it is stored but for the axis `fsdp`."""
        return jax.lax.with_sharding_constraint(traced, self._decoded_sharding(stored))

    def _decoded_sharding(self, stored: jax.Array) -> jax.sharding.Sharding:
        if not self._gathered or not isinstance(stored.sharding, NamedSharding):
            return stored.sharding
        return NamedSharding(self._mesh, PartitionSpec(*(_without("fsdp", axes) for axes in stored.sharding.spec)))

    def decoded_weight_bytes(self) -> int:
        """Bytes of all weights on each device, as the decoding loop has them."""
        return sum(
            math.prod(self._decoded_sharding(leaf).shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(self._flattened_transformer_state)
        )

    def _decode_whole(self, params: object, state: object) -> object:
        """Tunix's decoding loop; its tokens then are whole in every process of a multi-host run."""
        state = self._decode(params, state)
        self._tokens = self._whole(state.token_buffer)
        return dataclasses.replace(state, token_buffer=self._tokens)

    @property
    def transformer(self) -> nnx.Module:
        """The model as Tunix asks for it to make a cache: with our `init_cache`."""
        model = super().transformer
        object.__setattr__(model, "init_cache", self._init_cache)
        return model

    def _init_cache(self, batch_size: int, tokens: int, dtype: object) -> dict:
        """An empty cache as all of Tunix's models have it, sharded by rows (fsdp) and KV heads (tp)."""
        sizes = self.cache_config
        heads = jax.ShapeDtypeStruct((batch_size, tokens, sizes.num_kv_heads, sizes.head_dim), dtype)
        layer = {"k": heads, "v": heads, "end_index": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}
        return jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=self._cache_sharding(leaf, batch_size)),
            {f"layer_{index}": layer for index in range(sizes.num_layers)},
        )

    def _cache_sharding(self, leaf: jax.ShapeDtypeStruct, batch_size: int) -> NamedSharding:
        rows = "fsdp" if batch_size % self._mesh.shape["fsdp"] == 0 else None
        spec = PartitionSpec(rows, None, "tp", None) if leaf.ndim == 4 else PartitionSpec()
        return NamedSharding(self._mesh, spec)

    def abstract_state(
        self,
        rows: int,
        max_prompt_tokens: int,
        max_completion_tokens: int,
        stop_ids: tuple[int, ...],
        temperature: float,
        top_p: float | None,
        top_k: int | None,
    ) -> object:
        """What a call begins with, without values: to compile prefill and decoding where no device is."""
        self.eos_ids = jnp.array(stop_ids)
        state = jax.eval_shape(
            lambda ids, keys: self.init_sample_state(
                ids,
                max_prompt_tokens + max_completion_tokens,
                include_logits=False,
                forbidden_token_ids=None,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=jax.vmap(jax.random.key)(keys),
                beam_size=None,
            ),
            jax.ShapeDtypeStruct((rows, max_prompt_tokens), jnp.int32),
            jax.ShapeDtypeStruct((rows,), jnp.int32),
        )
        cache = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._cache_sharding(leaf, rows)),
            state.cache,
        )
        return dataclasses.replace(state, cache=cache, num_input_tokens=jnp.array(max_prompt_tokens, jnp.int32))

    def next_token_logits(self, logits: jax.Array, keys: jax.Array, position: jax.Array) -> jax.Array:
        """What next tokens are drawn from: every draw passes here, greedy ones too (benchmarks/speed/forced.py).

        Args:
          logits: [B, V] of the model.
          keys: [B] of the rows: a row may move in the batch, its key goes with it.
          position: of these tokens in their completions, from 0.
        """
        return logits.at[:, self.tokenizer.pad_id()].set(-jnp.inf)

    def _sample(self, logits: jax.Array, eos: jax.Array, cache: dict, sampler_state: object) -> object:
        """Draws the next token of each row; `sampler_state.seed` holds one key a row (greedy: unused)."""
        state = sampler_state
        position = state.decoding_step + 1 - state.num_input_tokens
        logits = self.next_token_logits(logits[:, -1], state.seed, position)
        if state.sampling_mode == "greedy":
            drawn = jnp.argmax(logits, axis=-1)
        else:
            top_p, top_k = state.sampling_parameters["top_p"], state.sampling_parameters["top_k"]

            def draw(row: jax.Array, key: jax.Array) -> jax.Array:
                key = jax.random.fold_in(key, position)
                return tunix_sampler.sample_top_p(row[None, None], key, state.temperature, top_p, top_k)[0][0]

            drawn = jax.vmap(draw)(logits, state.seed)
        return dataclasses.replace(
            state,
            decoding_step=state.decoding_step + 1,
            token_buffer=state.token_buffer.at[:, state.decoding_step + 1].set(drawn),
            cache=cache,
            done=state.done | jnp.isin(drawn, eos),
        )


def _without(axis: str, axes: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """One dimension's mesh axes, without one of them."""
    return tuple(each for each in axes if each != axis) if isinstance(axes, tuple) else None if axes == axis else axes


def batches(prompts: list[str], samples: int, batch_size: int) -> list[list[tuple[int, int]]]:
    """How an evaluation is cut into batches: (index of the prompt, number of the sample), longest prompts first.

    Prompts of like length share a batch. A function of its arguments alone: an evaluation that was stopped goes on with
    the batches that are left.
    """
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    asked = [(index, sample) for index in order for sample in range(samples)]
    return [asked[start : start + batch_size] for start in range(0, len(asked), batch_size)]


def complete(
    sampler: Sampler,
    prompts: list[str],
    batch: list[tuple[int, int]],
    batch_size: int,
    decoding: Decoding,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    stop_ids: tuple[int, ...],
    mesh: Mesh,
) -> list[Completion]:
    """The completions of one of `batches`.

    Every batch has `batch_size` rows (one that has fewer is filled up, and the filling dropped) and one padded length:
    one program serves all. The noise of a row derives from the seed, its prompt's index and its sample's number.
    """
    filled = batch + [batch[-1]] * (batch_size - len(batch))
    rows = np.array(filled)
    key = jax.random.key(decoding.seed)
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))(rows)
    sampled = decoding.temperature > 0
    with mesh:
        output = sampler(
            [prompts[index] for index, _ in filled],
            max_generation_steps=max_completion_tokens,
            max_prompt_length=max_prompt_tokens,
            eos_tokens=list(stop_ids),
            temperature=decoding.temperature if sampled else 1.0,
            # Tunix: greedy is top_p None; temperature 0 with top_p 1 is not.
            top_p=decoding.top_p if sampled else None,
            top_k=decoding.top_k if sampled else None,
            seed=keys,
        )
    completions = []
    for text, tokens in zip(output.text[: len(batch)], output.tokens, strict=False):
        completions.append(Completion(text, len(tokens), tokens[-1] not in stop_ids))
    return completions


class SeededRollout(vanilla_rollout.VanillaRollout):
    """Tunix's own rollout with three defects of 0.1.7 mended (its `RLCluster` builds it from the configuration).

    - Noise: stock draws the same noise at every call. Here a row's key derives from the run's seed, the step, the draw
      and the row's place in the step; so a resumed run draws what an uninterrupted one would have drawn, and the size
      of a micro-batch changes nothing.
    - Temperature: stock computes old log-probs at temperature 1 where the loss divides by the rollout's.
    - A prompt that is too long: stock pads to another length and compiles anew, or overruns the cache.
    """

    def __init__(
        self,
        rollout_actor: nnx.Module,
        tokenizer: object,
        mesh: Mesh,
        rollout_config: base_rollout.RolloutConfig,
        seed: int,
        gather_weights: bool = True,
    ):
        self._sampler = Sampler(rollout_actor, tokenizer, rollout_config.kv_cache_size, mesh, gather_weights)
        self.mesh = mesh
        self._temperature = rollout_config.temperature
        self._seed = seed
        self.start_draw(0)

    def start_draw(self, step: int, draw: int = 0) -> None:
        """Says which step (0-based) and which draw within it (0, then replacements) the next rows belong to."""
        self._key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._seed), step), draw)
        self._rows = 0

    def generate(
        self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **kwargs
    ) -> base_rollout.RolloutOutput:
        """Samples one completion for each prompt; see the class for what differs from Tunix's.

        Raises:
          PipelineError: a prompt of more than `max_prompt_length` tokens.
        """
        longest = max(len(self._sampler.tokenize(prompt)) for prompt in prompts)
        if longest > rollout_config.max_prompt_length:
            raise PipelineError(
                f"prompt.max_tokens: a prompt of {longest} tokens is longer than {rollout_config.max_prompt_length}; "
                "make the prompts again with --forcerun prompts"
            )
        rows = np.arange(self._rows, self._rows + len(prompts))
        self._rows += len(prompts)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self._key, rows)
        return super().generate(prompts, dataclasses.replace(rollout_config, seed=keys), **kwargs)

    def get_per_token_logps(self, prompt_tokens: jax.Array, completion_tokens: jax.Array) -> jax.Array:
        """Log-probs of completions under the rollout policy at the rollout's temperature, [B, T]."""
        graphdef, state = self._sampler.model_def_and_state()
        return common.compute_per_token_logps(
            graphdef,
            state,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            pad_id=self.pad_id(),
            eos_id=self.eos_id(),
            stop_gradient=True,
            temperature=self._temperature,
        )


def cache_tokens(max_prompt_tokens: int, max_completion_tokens: int) -> int:
    """KV cache positions for a prompt and a completion, rounded up to a multiple of 8."""
    return math.ceil((max_prompt_tokens + max_completion_tokens) / 8) * 8
