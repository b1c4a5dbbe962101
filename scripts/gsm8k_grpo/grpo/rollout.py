"""Rollouts for training: Tunix's own, with its defects mended."""

from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tunix.rl.rollout import base_rollout, vanilla_rollout

from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models import log_probs, matmul_order


class SeededRollout(vanilla_rollout.VanillaRollout):
    """Tunix's own rollout with three defects of 0.1.7 mended. Tunix's `RLCluster` builds it from the configuration.

    - Noise: Tunix draws the same noise at every call. Here a row's key derives from the run's seed, the step, the draw
      and the row's index in the step. So a resumed run draws what an uninterrupted one draws, and the size of a
      micro-batch changes nothing.
    - Temperature: Tunix computes old log-probs at temperature 1, while its loss divides by the rollout's temperature.
    - Prompts that are too long: Tunix pads them to another length and compiles anew, or overruns the cache.

    Attributes:
      unsampled: `SamplerOutput.unsampled` of the rows since `start_draw`; Tunix's output has no place for it.
    """

    def __init__(
        self,
        rollout_actor: nnx.Module,
        tokenizer: object,
        mesh: Mesh,
        rollout_config: base_rollout.RolloutConfig,
        seed: int,
        generations: int = 1,
        gather_weights: bool = True,
        lora: Mapping | None = None,
        slots: int | None = None,
        base: nnx.Module | None = None,
    ):
        """
        Args:
          seed: the run's seed.
          generations: G. Prompts come in groups of G equal ones, and each group's prompt is computed once.
          gather_weights, lora: as in `Sampler`.
          slots: how many completions are sampled at a time; None is all.
          base: the model without adapters, for draws from it; None where the policy makes all.
        """
        # Not `super().__init__`, which would make a sampler of its own. Its other methods read `_sampler`.
        cache_tokens = rollout_config.kv_cache_size
        self._sampler = Sampler(rollout_actor, tokenizer, cache_tokens, mesh, gather_weights, lora)
        self._base_sampler = None if base is None else Sampler(base, tokenizer, cache_tokens, mesh, gather_weights)
        self.mesh = mesh
        self._temperature = rollout_config.temperature
        self._seed, self._generations, self._slots = seed, generations, slots
        self.start_draw(0)

    def start_draw(self, step: int, draw: int = 0, from_base: bool = False) -> None:
        """Sets the step (0-based) and the draw within it (0, then replacements) that the next rows belong to.

        `from_base`: the base model samples them, not the policy.
        """
        self._drawing = self._base_sampler if from_base else self._sampler
        self._key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self._seed), step), draw)
        self._rows = 0
        self.unsampled = np.zeros(0)

    def generate(
        self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **kwargs
    ) -> base_rollout.RolloutOutput:
        """Samples one completion for each prompt.

        Raises:
          PipelineError: a prompt has more than `max_prompt_length` tokens.
        """
        rows = np.arange(self._rows, self._rows + len(prompts))
        self._rows += len(prompts)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self._key, rows)
        grouped = [text for text in prompts[:: self._generations] for _ in range(self._generations)] == prompts
        output = self._drawing(
            prompts,
            rollout_config.max_tokens_to_generate,
            rollout_config.max_prompt_length,
            eos_tokens=rollout_config.eos_tokens,
            temperature=rollout_config.temperature,
            top_p=rollout_config.top_p,
            top_k=rollout_config.top_k,
            seed=keys,
            repeats=self._generations if grouped else 1,
            slots=self._slots,
        )
        self.unsampled = np.concatenate([self.unsampled, output.unsampled])
        return base_rollout.RolloutOutput(
            text=output.text,
            logits=None,
            tokens=output.tokens,
            left_padded_prompt_tokens=output.padded_prompt_tokens,
            logprobs=None,
        )

    def prompt_ids(self, prompts: list[str], max_prompt_tokens: int) -> np.ndarray:
        """[B, max_prompt_tokens] left-padded tokens of prompts."""
        return self._sampler.padded_prompts([self._sampler.tokenize(text) for text in prompts], max_prompt_tokens)

    def get_per_token_logps(
        self, prompt_tokens: jax.Array, completion_tokens: jax.Array, packed_places: jax.Array | None = None
    ) -> jax.Array:
        """[B, T] log-probs of completions under the policy, at the rollout's temperature."""
        graph, state = self._sampler.model_def_and_state()
        return log_probs.log_probs_program(
            *(graph, state, prompt_tokens, completion_tokens, packed_places, self.pad_id(), self._temperature),
            matmul_order.on_cpu(self.mesh),
        )
