"""A recipe's own programs with abstract arguments, ready to compile for any accelerator."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tunix.rl import trainer as rl_trainer

from gsm8k_grpo.generation import padding
from gsm8k_grpo.generation.cache_size import cache_capacities, cache_tokens
from gsm8k_grpo.generation.sampler import DecodingState, DrawingOptions, Sampler
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.loss import TrainExample
from gsm8k_grpo.internals import jax_internals
from gsm8k_grpo.models import building, log_probs, matmul_order, storage
from gsm8k_grpo.models.lora import make_policy
from gsm8k_grpo.models.mesh import abstract_with_shardings

STOP_IDS = (107, 1)  # any tokens': the numbers change nothing in a program's size


class NoTokenizer:
    """Stands where a tokenizer would: the programs know its special tokens alone."""

    def pad_id(self) -> int:
        """Of padding."""
        return 0

    def eos_id(self) -> int:
        """Of the end."""
        return 1

    def bos_id(self) -> int:
        """Of the beginning."""
        return 2

    def encode(self, text: str) -> list[int]:
        """There is no text."""
        raise NotImplementedError

    decode = encode


def bytes_per_chip(tree: object) -> int:
    """Bytes that arrays, abstract or not, take on each chip."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Programs:
    """The programs of one recipe on one mesh, by name, each to be lowered with abstract arguments.

    Attributes:
      lora_parameters, base_parameters: numbers of scalars.
      base_bytes, adapter_bytes, optimizer_bytes: on each chip, for as long as training lasts.
      on_cpu: whether the mesh is of CPU devices.
    """

    def __init__(self, chosen: Mapping, mesh: Mesh, estimated: bool = False):
        """
        Args:
          chosen: the blocks seed, mesh, model, prompt, training and evaluation.
          mesh: of `make_mesh`, or of real devices.
          estimated: whether the mesh's CPU stands for another device: then programs are not made for a CPU.
        """
        self._chosen, self._mesh, self._for_cpu = chosen, mesh, matmul_order.on_cpu(mesh) and not estimated
        self.on_cpu = mesh.devices.flat[0].platform == "cpu"
        lora, dtype = chosen["training"]["lora"], jnp.dtype(chosen["model"]["dtype"])
        with jax_internals.devices_seen_as(mesh):
            self._base = storage.abstract_model(building.tunix_config(chosen["model"]["architecture"]), mesh, dtype)
            self._policy = make_policy(self._base, lora, chosen["seed"], mesh)
        # A quantised reference has zero adapters: the same shapes as the policy.
        self._reference = self._policy if lora and lora["base_weights"] else self._base
        self._trainer = self._make_trainer()
        self._step, _ = self._trainer.jit_train_and_eval_step()
        self._states: dict[str, object] = {}
        adapters, weights = nnx.state(self._policy, nnx.LoRAParam, ...)
        self.base_parameters = building.count_parameters(self._base)
        self.lora_parameters = building.count_parameters(self._policy, nnx.LoRAParam)
        self.base_bytes, self.adapter_bytes = bytes_per_chip(weights), bytes_per_chip(adapters)
        self.optimizer_bytes = bytes_per_chip(nnx.state(self._trainer.optimizer, nnx.optimizer.OptState))

    @functools.cached_property
    def names(self) -> list[str]:
        """Of the programs, in the order of a step; evaluation last."""
        how = self._chosen["training"]
        return [
            "rollout_prefill",
            "rollout_decode",
            *(["reference_log_probs"] if how["beta"] else []),
            *(["old_log_probs"] if how["num_iterations"] > 1 else []),
            "train_step",
            "evaluation_prefill",
            "evaluation_decode",
        ]

    def lower(self, name: str) -> jax.stages.Lowered:
        """The program, traced with abstract arguments."""
        with jax_internals.devices_seen_as(self._mesh):
            stage, _, part = name.partition("_")
            if part == "prefill":
                return self._sampler(stage).prefill
            if part == "decode":
                of_stage = self._sampler(stage)
                return of_stage.sampler.lower_decode(self._states.get(stage, of_stage.state), of_stage.how)
            if name == "train_step":
                return self._step.func.lower(self._example())
            return self._log_probs(self._reference if name == "reference_log_probs" else self._policy)

    def compiled(self, name: str, program: jax.stages.Compiled) -> None:
        """Takes note of where a prefill leaves the state that the decoding begins with."""
        stage, _, part = name.partition("_")
        if part == "prefill":
            self._states[stage] = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                self._sampler(stage).state,
                program.output_shardings,
            )

    def kv_cache_bytes(self, name: str) -> int:
        """Of the KV cache that a program works on, on each chip."""
        stage, _, part = name.partition("_")
        return bytes_per_chip(self._sampler(stage).state.cache) if part in ("prefill", "decode") else 0

    def shorter_cache_bytes(self, name: str) -> int:
        """Of the KV cache that decoding begins with, on each chip: while it grows, both lie there."""
        how = self._chosen["evaluation" if name.startswith("evaluation") else "training"]
        places = [
            cache_tokens(self._chosen["prompt"]["max_tokens"], room)
            for room in cache_capacities(how["max_completion_tokens"])
        ]
        return self.kv_cache_bytes(name) * places[0] // places[-1] if len(places) > 1 else 0

    def rows(self, name: str) -> int:
        """Sequences that a program works on at a time."""
        if name.startswith("evaluation"):
            how = self._chosen["evaluation"]
            return min(how["batch_size"], how["rows"] or how["batch_size"])
        return self._chosen["training"]["micro_batch_prompts"] * self._chosen["training"]["num_generations"]

    def read_bytes(self, name: str) -> int:
        """Weights and KV cache on each chip, as a decoding loop has them: what a token reads at least, on the mean."""
        if not name.endswith("decode"):
            return 0
        whole = self.kv_cache_bytes(name)  # which the second half of the tokens attends to
        weights = self._sampler(name.partition("_")[0]).sampler.decoded_weight_bytes()
        return weights + (whole + (self.shorter_cache_bytes(name) or whole)) // 2

    def resident_bytes(self, name: str) -> int:
        """What lies on each chip beside a program's own arguments while it runs."""
        how = self._chosen["training"]
        second_model = self.base_bytes if how["beta"] and not how["lora"] else 0  # where all weights are trained
        if name == "reference_log_probs":
            quantised = self._reference is self._policy
            return second_model + (0 if quantised else self.adapter_bytes) + self.optimizer_bytes
        if name in ("rollout_prefill", "rollout_decode", "old_log_probs"):
            return second_model + self.optimizer_bytes
        return second_model if name == "train_step" else 0

    def _make_trainer(self) -> rl_trainer.Trainer:
        """Tunix's trainer as its cluster makes it, with our loss; adapters and optimizer state are abstract."""
        how, prompt = self._chosen["training"], self._chosen["prompt"]
        config = tunix_setup.rl_cluster_config(
            self._mesh, how, prompt["max_tokens"], STOP_IDS, self._chosen["seed"], None, gather_weights=True
        ).training_config
        graph, state = nnx.split(self._policy)
        made = optimizer_graph = None

        def make(state: nnx.State) -> nnx.State:
            nonlocal made, optimizer_graph
            made = rl_trainer.Trainer(nnx.merge(graph, state), config.actor_optimizer, config, dict, object())
            optimizer_graph, optimizer_state = nnx.split(made.optimizer)
            return optimizer_state

        optimizer_state = abstract_with_shardings(jax.eval_shape(make, state), self._mesh)
        made.model, made.optimizer = self._policy, nnx.merge(optimizer_graph, optimizer_state)
        tunix_setup.set_loss(made, tunix_setup.grpo_config(how), NoTokenizer().pad_id(), how["remat"], self._for_cpu)
        return made

    def _array(self, shape: tuple[int, ...], dtype: object, axis: str | None = "fsdp") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self._mesh, PartitionSpec(axis)))

    def _example(self) -> TrainExample:
        """A micro-batch as `Learner` makes it, of the longest completions."""
        how = self._chosen["training"]
        rows = self.rows("train_step")
        copies = padding.prompt_copies(how["micro_batch_prompts"], how["num_generations"], self._mesh.shape["fsdp"])
        prompts = how["micro_batch_prompts"] * copies
        prompt, completion = (prompts, self._chosen["prompt"]["max_tokens"]), (rows, how["max_completion_tokens"])
        log_probs = self._array(completion, jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        return TrainExample(
            prompt_ids=self._array(prompt, jnp.int32),
            prompt_mask=self._array(prompt, jnp.bool_),
            completion_ids=self._array(completion, jnp.int32),
            completion_mask=self._array(completion, jnp.bool_),
            advantages=self._array((rows,), jnp.float32),
            ref_per_token_logps=log_probs if how["beta"] else None,
            old_per_token_logps=log_probs if how["num_iterations"] > 1 else None,
            loss_weights=self._array(completion, jnp.float32),
            mean_weights=self._array(completion, jnp.float32),
            dropout_key=self._array(key.shape, key.dtype, None) if how["lora"] and how["lora"]["dropout"] else None,
        )

    def _log_probs(self, model: nnx.Module) -> jax.stages.Lowered:
        """As `Learner` asks for them, of the reference and of the old policy."""
        example, temperature = self._example(), self._chosen["training"]["temperature"]
        return log_probs.log_probs_program.lower(
            *nnx.split(model), example.prompt_ids, example.completion_ids, None, NoTokenizer().pad_id(), temperature
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019 (lives as long as this object's process)
    def _sampler(self, stage: str) -> "SamplerPrograms":
        """Of rollouts or of evaluation."""
        how = self._chosen["evaluation" if stage == "evaluation" else "training"]
        limits = self._chosen["prompt"]["max_tokens"], how["max_completion_tokens"]
        gather = self._chosen["mesh"]["decode_weights"] == "gathered"
        rows = self.rows(f"{stage}_prefill")
        repeats = math.gcd(how["samples"], rows) if stage == "evaluation" else how["num_generations"]
        drawing = DrawingOptions(limits[1], STOP_IDS, how["temperature"], how["top_k"], how["top_p"])
        lora, longest_cache = self._chosen["training"]["lora"], cache_tokens(*limits)
        with jax_internals.devices_seen_as(self._mesh):
            sampler = Sampler(self._policy, NoTokenizer(), longest_cache, self._mesh, gather, lora, self._for_cpu)
            prefill = sampler.lower_prefill(rows, repeats, limits[0], drawing)
        return SamplerPrograms(sampler, drawing, prefill, sampler.abstract_state(prefill))


@dataclasses.dataclass(frozen=True)
class SamplerPrograms:
    """A sampler, how it draws, its program for prompts, and what that returns, without values."""

    sampler: Sampler
    how: DrawingOptions
    prefill: jax.stages.Lowered
    state: DecodingState
