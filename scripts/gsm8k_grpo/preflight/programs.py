"""The programs that a recipe runs, traced with abstract arguments: shapes and shardings without values."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tunix.rl import trainer as rl_trainer

from gsm8k_grpo.config.batch_sizes import micro_batch, rollout_batch
from gsm8k_grpo.generation import padding
from gsm8k_grpo.generation.cache_length import cache_capacities, cache_tokens
from gsm8k_grpo.generation.decoding_state import DecodingState, DrawingOptions
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.generation.shared_prefix import computed_once
from gsm8k_grpo.generation.slots import refill_rows
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.loss import TrainExample
from gsm8k_grpo.grpo.update import PolicyUpdate
from gsm8k_grpo.internals import jax_internals
from gsm8k_grpo.models import building, log_probs, matmul_order, storage
from gsm8k_grpo.models.lora import make_policy
from gsm8k_grpo.models.mesh import abstract_with_shardings, with_sharding
from gsm8k_grpo.models.precision import accelerator_dtype

PLACEHOLDER_STOP_IDS = (107, 1)  # a program's size does not depend on the ids


class PlaceholderTokenizer:
    """Replaces the tokenizer: the programs only need the ids of its special tokens."""

    encode = decode = None  # Tunix looks for both, but no program handles text

    def pad_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return 1

    def bos_id(self) -> int:
        return 2


def bytes_per_chip(tree: object) -> int:
    """Bytes of all arrays of a tree on each chip; they may be abstract."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class SamplerPrograms:
    """A sampler, its drawing options, its lowered prefills and the abstract states that they return.

    Attributes:
      prefix, prefix_cache: the prefill of the beginning that all prompts share; None and empty without one.
      refill, refilled: the prefill of some slots while the others go on; None where all are filled at once.
    """

    sampler: Sampler
    drawing: DrawingOptions
    prefix: jax.stages.Lowered | None
    prefix_cache: dict
    prefill: jax.stages.Lowered
    state: DecodingState
    refill: jax.stages.Lowered | None
    refilled: DecodingState | None


class Programs:
    """The programs of one recipe on one mesh. They are known by name and lowered with abstract arguments.

    Attributes:
      mesh: the mesh.
      on_cpu: whether its devices are CPUs.
      trainer: Tunix's trainer, its model and optimizer abstract.
      update: the programs that change its weights.
      base_parameters, lora_parameters: numbers of scalars.
      base_bytes, adapter_bytes, optimizer_bytes: their bytes on each chip.
    """

    def __init__(self, settings: Mapping, mesh: Mesh, estimated: bool = False, common_tokens: int = 0):
        """
        Args:
          settings: the blocks seed, mesh, model, prompt, training and evaluation.
          mesh: a mesh of described chips (`compilation.make_mesh`) or of real devices.
          estimated: whether CPU devices stand for another accelerator; programs then leave out our CPU optimisations.
          common_tokens: with how many tokens all prompts begin alike (`prompt_beginning`).
        """
        self._settings, self.mesh, self._common_tokens = settings, mesh, common_tokens
        self.on_cpu = mesh.devices.flat[0].platform == "cpu"
        self._for_cpu = matmul_order.on_cpu(mesh) and not estimated
        lora, dtype = settings["training"]["lora"], jnp.dtype(accelerator_dtype(settings["model"]["dtype"]))
        with jax_internals.devices_seen_as(mesh):
            self._base = storage.abstract_model(building.tunix_config(settings["model"]["architecture"]), mesh, dtype)
            self._policy = make_policy(self._base, lora, settings["seed"], mesh)
        # The reference of a quantised policy is the same model with zero adapters: it has the policy's shapes.
        self._reference = self._policy if lora and lora["base_weights"] else self._base
        self.trainer, training = self._make_trainer(), settings["training"]
        config, pad_id = tunix_setup.grpo_config(training), PlaceholderTokenizer().pad_id()
        self.update = PolicyUpdate(self.trainer, config, pad_id, mesh, training["remat"], self._for_cpu)
        self._decoding_states: dict[str, object] = {}
        adapters, weights = nnx.state(self._policy, nnx.LoRAParam, ...)
        self.base_parameters = building.count_parameters(self._base)
        self.lora_parameters = building.count_parameters(self._policy, nnx.LoRAParam)
        self.base_bytes, self.adapter_bytes = bytes_per_chip(weights), bytes_per_chip(adapters)
        self.optimizer_bytes = bytes_per_chip(nnx.state(self.trainer.optimizer, nnx.optimizer.OptState))

    @functools.cached_property
    def names(self) -> list[str]:
        """The programs' names in the order in which a step runs them; evaluation comes last."""
        training = self._settings["training"]
        return [
            *self._sampler_names("rollout"),
            *(["reference_log_probs"] if training["beta"] else []),
            *(["old_log_probs"] if training["num_iterations"] > 1 else []),
            "gradient",
            "optimizer_step",
            *self._sampler_names("evaluation"),
        ]

    def _sampler_names(self, stage: str) -> list[str]:
        """The programs of `rollout` or `evaluation`.

        In turn: what all prompts begin with, all slots' prompts, decoding's own weights, decoding, a refill.
        """
        traced = self._sampler(stage)
        return [
            *([f"{stage}_prefix"] if traced.prefix else []),
            f"{stage}_prefill",
            *([f"{stage}_weights"] if traced.sampler.prepares_weights else []),
            f"{stage}_decode",
            *([f"{stage}_refill"] if traced.refill else []),
        ]

    def lower(self, name: str) -> jax.stages.Lowered:
        """Traces the program with abstract arguments."""
        stage, _, part = name.partition("_")
        with jax_internals.devices_seen_as(self.mesh):
            if part in ("prefix", "prefill", "refill"):
                return getattr(self._sampler(stage), part)
            if part == "weights":
                return self._sampler(stage).sampler.lower_lay_out(self._sampler(stage).state)
            if part == "decode":
                traced = self._sampler(stage)
                return traced.sampler.lower_decode(self._decoding_states.get(stage, traced.state), traced.drawing)
            if name == "gradient":
                return self.update.lower_gradient(self.training_example())
            if name == "optimizer_step":
                return self.update.lower_optimizer_step()
            return self._lower_log_probs(self._reference if name == "reference_log_probs" else self._policy)

    def note_output_shardings(self, name: str, program: jax.stages.Compiled) -> None:
        """Remembers where a compiled prefill leaves the state: decoding begins with it there."""
        stage, _, part = name.partition("_")
        if part == "prefill":
            self._decoding_states[stage] = jax.tree.map(
                with_sharding, self._sampler(stage).state, program.output_shardings
            )

    def rows(self, name: str) -> int:
        """Sequences that the program works on at a time."""
        stage, _, part = name.partition("_")
        if part == "prefix":
            return 1
        if part == "refill":
            return self._sampler(stage).refilled.done.shape[0]
        if stage == "evaluation":
            evaluation = self._settings["evaluation"]
            return min(evaluation["batch_size"], evaluation["rows"] or evaluation["batch_size"])
        training = self._settings["training"]
        return rollout_batch(training) if stage == "rollout" else micro_batch(training)

    def kv_cache_bytes(self, name: str) -> int:
        """Bytes of the program's KV cache on each chip at its longest; 0 where it has none."""
        stage, _, part = name.partition("_")
        if part == "prefix":
            return bytes_per_chip(self._sampler(stage).prefix_cache)
        if part == "refill":
            return bytes_per_chip(self._sampler(stage).refilled.cache)
        return bytes_per_chip(self._sampler(stage).state.cache) if part in ("prefill", "decode") else 0

    def first_cache_bytes(self, name: str) -> int:
        """Bytes of the shorter KV cache that decoding begins with, on each chip; 0 where the cache never grows.

        Both caches are in memory while the longer one is filled from it.
        """
        capacities = cache_capacities(self._stage_settings(name)["max_completion_tokens"])
        if len(capacities) == 1:
            return 0
        first, *_, longest = (cache_tokens(self._settings["prompt"]["max_tokens"], tokens) for tokens in capacities)
        return self.kv_cache_bytes(name) * first // longest

    def read_bytes(self, name: str) -> int:
        """Weights and KV cache on each chip that decoding a token reads at least, on average; 0 for other programs."""
        if not name.endswith("decode"):
            return 0
        longest = self.kv_cache_bytes(name)  # the second half of the tokens attends to it, the first to the shorter one
        weights = self._sampler(name.partition("_")[0]).sampler.decoded_weight_bytes()
        return weights + (longest + (self.first_cache_bytes(name) or longest)) // 2

    def resident_bytes(self, name: str) -> int:
        """Bytes on each chip that are not the program's arguments but stay in memory while it runs."""
        training = self._settings["training"]
        # Without LoRA all weights are trained, and the KL penalty needs a second model.
        second_model = self.base_bytes if training["beta"] and not training["lora"] else 0
        if name == "reference_log_probs":
            quantised = self._reference is self._policy
            return second_model + (0 if quantised else self.adapter_bytes) + self.optimizer_bytes
        stage, _, part = name.partition("_")
        if stage in ("rollout", "evaluation"):
            training_state = second_model + self.optimizer_bytes if stage == "rollout" else 0
            return training_state + self._beside_sampling_bytes(stage, part)
        if name in ("old_log_probs", "gradient"):
            return second_model + self.optimizer_bytes
        if name == "optimizer_step":  # with LoRA, the frozen weights are none of its arguments
            return second_model + (self.base_bytes if training["lora"] else 0)
        return 0

    def _beside_sampling_bytes(self, stage: str, part: str) -> int:
        """Bytes that sampling itself keeps beside a program's arguments: caches, and weights of the other kind."""
        sampler, cache = self._sampler(stage).sampler, self.kv_cache_bytes(f"{stage}_decode")
        prepared, prefix = sampler.prepares_weights, self.kv_cache_bytes(f"{stage}_prefix")
        if part == "weights":
            return prefix + (self.first_cache_bytes(f"{stage}_decode") or cache)
        if part == "decode":
            return prefix + (self.base_bytes + self.adapter_bytes if prepared else 0)
        return cache + (sampler.decoded_weight_bytes() if prepared else 0) if part == "refill" else 0

    def abstract_array(self, shape: tuple[int, ...], dtype: object, axis: str | None = "fsdp") -> jax.ShapeDtypeStruct:
        """An array without values whose first dimension is sharded over a mesh axis."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, PartitionSpec(axis)))

    def training_example(self) -> TrainExample:
        """A micro-batch of the longest completions, as `Learner` makes it."""
        training, rows = self._settings["training"], self.rows("gradient")
        prompts, fsdp = -(-rows // training["num_generations"]), self.mesh.shape["fsdp"]
        copies = padding.prompt_copies(prompts, rows // prompts, fsdp)
        prompt_shape = (prompts * copies, self._settings["prompt"]["max_tokens"])
        completion_shape = (rows, training["max_completion_tokens"])
        log_probs = self.abstract_array(completion_shape, jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        dropout = training["lora"] and training["lora"]["dropout"]
        return TrainExample(
            prompt_ids=self.abstract_array(prompt_shape, jnp.int32),
            prompt_mask=self.abstract_array(prompt_shape, jnp.bool_),
            completion_ids=self.abstract_array(completion_shape, jnp.int32),
            completion_mask=self.abstract_array(completion_shape, jnp.bool_),
            advantages=self.abstract_array((rows,), jnp.float32),
            ref_per_token_logps=log_probs if training["beta"] else None,
            old_per_token_logps=log_probs if training["num_iterations"] > 1 else None,
            loss_weights=self.abstract_array(completion_shape, jnp.float32),
            mean_weights=self.abstract_array(completion_shape, jnp.float32),
            dropout_key=self.abstract_array(key.shape, key.dtype, None) if dropout else None,
        )

    def _stage_settings(self, name: str) -> Mapping:
        """The block that says how a program's stage draws completions: `training` (rollouts) or `evaluation`."""
        return self._settings["evaluation" if name.startswith("evaluation") else "training"]

    def _make_trainer(self) -> rl_trainer.Trainer:
        """Tunix's trainer as its RL cluster makes it; adapters and optimizer state are abstract."""
        training, max_prompt_tokens = self._settings["training"], self._settings["prompt"]["max_tokens"]
        arguments = (self.mesh, training, max_prompt_tokens, PLACEHOLDER_STOP_IDS, self._settings["seed"])
        config = tunix_setup.rl_cluster_config(*arguments, checkpoints=None, gather_weights=True).training_config
        graph, state = nnx.split(self._policy)
        trainer = optimizer_graph = None

        def make(state: nnx.State) -> nnx.State:
            nonlocal trainer, optimizer_graph
            trainer = rl_trainer.Trainer(nnx.merge(graph, state), config.actor_optimizer, config, dict, object())
            optimizer_graph, optimizer_state = nnx.split(trainer.optimizer)
            return optimizer_state

        optimizer_state = abstract_with_shardings(jax.eval_shape(make, state), self.mesh)
        trainer.model, trainer.optimizer = self._policy, nnx.merge(optimizer_graph, optimizer_state)
        return trainer

    def _lower_log_probs(self, model: nnx.Module) -> jax.stages.Lowered:
        """The log-probs of the reference or of the old policy, as `Learner` computes them."""
        example, temperature = self.training_example(), self._settings["training"]["temperature"]
        arguments = (example.prompt_ids, example.completion_ids, None, PlaceholderTokenizer().pad_id(), temperature)
        return log_probs.log_probs_program.lower(*nnx.split(model), *arguments, self._for_cpu)

    @functools.lru_cache(maxsize=2)  # noqa: B019 (the cache keeps this object, which lives as long as its process)
    def _sampler(self, stage: str) -> SamplerPrograms:
        """The sampler of `rollout` or `evaluation`."""
        options, training = self._stage_settings(stage), self._settings["training"]
        prompt_tokens, limit = self._settings["prompt"]["max_tokens"], options["max_completion_tokens"]
        gather = self._settings["mesh"]["decode_weights"] == "gathered"
        rows, fsdp = self.rows(f"{stage}_prefill"), self.mesh.shape["fsdp"]
        prompts, repeats = training["prompts_per_step"], training["num_generations"]
        if stage == "evaluation":  # of all rows of a split where their number is not set
            prompts, repeats = options["rows"] or math.inf, options["samples"]
        wanted, common = prompts * repeats, min(self._common_tokens, prompt_tokens - 1)
        shared = computed_once(common, prompts) if fsdp == 1 else 0
        refilled = refill_rows(wanted, rows, limit, fsdp)
        repeats = math.gcd(repeats, rows, refilled)
        drawn = (options["temperature"], options["top_k"], options["top_p"])
        drawing = DrawingOptions(limit, PLACEHOLDER_STOP_IDS, *drawn)
        tokenizer, longest_cache = PlaceholderTokenizer(), cache_tokens(prompt_tokens, limit)
        with jax_internals.devices_seen_as(self.mesh):
            sampler = Sampler(
                self._policy, tokenizer, longest_cache, self.mesh, gather, training["lora"], self._for_cpu
            )
            prefix = sampler.lower_prefill_prefix(shared) if shared else None
            cache = sampler.abstract_cache(prefix.out_info, 1) if prefix else {}
            lower = functools.partial(
                sampler.lower_prefill, repeats=repeats, max_prompt_tokens=prompt_tokens, prefix=cache or None
            )
            prefill = lower(rows, places=longest_cache, options=drawing)
            refill = lower(refilled, places=prompt_tokens, options=drawing) if refilled < rows else None
        return SamplerPrograms(
            *(sampler, drawing, prefix, cache, prefill, sampler.abstract_state(prefill)),
            *(refill, refill and sampler.abstract_state(refill)),
        )
