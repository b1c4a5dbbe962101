"""Generation through Tunix's sampler: rollouts for training, greedy completions for evaluation."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tunix.generate import sampler as tunix_sampler
from tunix.rl import common
from tunix.rl.rollout import base_rollout, vanilla_rollout


@dataclasses.dataclass(frozen=True)
class Completion:
    """One generated completion: its text without the stop token, its length with it, and why it ended."""

    text: str
    tokens: int
    truncated: bool


def make_sampler(model: nnx.Module, tokenizer: object, cache_tokens: int) -> tunix_sampler.Sampler:
    """Tunix's sampler over a model with a KV cache of `cache_tokens` positions. Keep it: each new one compiles anew."""
    config = model.config
    return tunix_sampler.Sampler(
        model,
        tokenizer,
        tunix_sampler.CacheConfig(cache_tokens, config.num_layers, config.num_kv_heads, config.head_dim),
    )


def greedy(
    sampler: tunix_sampler.Sampler,
    prompts: list[str],
    batch_size: int,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    stop_id: int,
    mesh: Mesh,
) -> Iterator[tuple[int, Completion]]:
    """Yields (index of the prompt, its greedy completion), longest prompts first.

    Prompts of like length share a batch. Every batch has `batch_size` rows (the last is filled up and the filling
    dropped) and one padded length, so that one program serves all.
    """
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        filled = [prompts[index] for index in chosen] + [prompts[chosen[-1]]] * (batch_size - len(chosen))
        with mesh:
            output = sampler(
                filled,
                max_generation_steps=max_completion_tokens,
                max_prompt_length=max_prompt_tokens,
                eos_tokens=[stop_id],
                temperature=1.0,
                top_p=None,  # Tunix: greedy is top_p None; temperature 0 with top_p 1 repeats one token
            )
        for index, text, tokens in zip(chosen, output.text, output.tokens, strict=False):
            truncated = len(tokens) >= max_completion_tokens
            yield index, Completion(text, len(tokens) + (not truncated), truncated)


class SeededRollout(vanilla_rollout.VanillaRollout):
    """Tunix's own rollout with three defects of 0.1.7 mended (its `RLCluster` builds it from the configuration).

    - Noise: stock draws the same noise at every call. Here each call's seed derives from the run's seed, the step and
      the number of the call within the step; so a resumed run draws what an uninterrupted one would have drawn.
    - The stop token: stock cuts it off before the loss, so that a model is never trained to stop. Here it stays at the
      end of a completion's tokens (not of its text).
    - Temperature: stock computes old log-probs at temperature 1 where the loss divides by the rollout's.
    """

    def __init__(
        self,
        rollout_actor: nnx.Module,
        tokenizer: object,
        mesh: Mesh,
        rollout_config: base_rollout.RolloutConfig,
        seed: int,
    ):
        config = rollout_actor.config
        super().__init__(
            rollout_actor,
            tokenizer,
            base_rollout.CacheConfig(
                rollout_config.kv_cache_size, config.num_layers, config.num_kv_heads, config.head_dim
            ),
        )
        self.mesh = mesh
        self._temperature = rollout_config.temperature
        self._seed = seed
        self.start_step(0)

    def start_step(self, step: int) -> None:
        """Says which step (0-based) the next calls of `generate` belong to."""
        self._step_key = jax.random.fold_in(jax.random.key(self._seed), step)
        self._calls = 0

    def generate(
        self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **kwargs
    ) -> base_rollout.RolloutOutput:
        """Samples one completion for each prompt; see the class for what differs from Tunix's."""
        seed = jax.random.key_data(jax.random.fold_in(self._step_key, self._calls))
        self._calls += 1
        output = super().generate(prompts, dataclasses.replace(rollout_config, seed=seed), **kwargs)
        (stop_id,) = rollout_config.eos_tokens
        limit = rollout_config.max_tokens_to_generate
        tokens = [row if len(row) >= limit else np.append(row, np.int32(stop_id)) for row in output.tokens]
        return dataclasses.replace(output, tokens=tokens)

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
