"""A recipe's own programs, compiled for an accelerator that is not there, without weights: do they fit?

The programs are those of training: Tunix's trainer with our loss, `log_probs`, `rollout.Sampler`. Only their
arguments are abstract, with the shardings that real ones have. The compiler is the accelerator's own (libtpu), or the
CPU's where that is all there is; the latter is an estimate.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tunix.rl import trainer as rl_trainer

from gsm8k_grpo import grpo, hlo, log_probs, models, padding, products, rollout, settings, training
from gsm8k_grpo.accelerators import GIB, Accelerator
from gsm8k_grpo.errors import PipelineError

STOP_IDS = (107, 1)  # any tokens': the numbers change nothing in a program's size
# `-O1` compiles some five times faster and sees memory within -40 to +16 % of what the default level does.
OPTIMIZATION_LEVELS = {"screen": "O1", "verdict": "UNKNOWN"}
# The CPU's compiler takes away what keeps activations from being kept after all: rematerialisation would save nothing.
ON_CPU = {"xla_disable_hlo_passes": "cse_barrier_expander"}
CLOSE = 0.2  # the share of a chip's memory within which a screening decides nothing


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


def devices(accelerator: Accelerator) -> list:
    """The chips to compile for, described by the TPU's compiler (or CPU devices, for an estimate).

    Raises:
      PipelineError: libtpu is not installed.
    """
    if accelerator.topology is None:
        return jax.devices("cpu")[: accelerator.chips]
    if importlib.util.find_spec("libtpu") is None:
        raise PipelineError(
            f"preflight.accelerator: {accelerator.name} needs the TPU's compiler (libtpu), which is not installed; "
            "`make setup PLATFORM=tpu` installs it (pip install --require-hashes -r envs/tpu.txt; no TPU is needed)"
        )
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name=accelerator.topology).devices)


def make_mesh(accelerator: Accelerator, fsdp: int, tp: int) -> Mesh:
    """As `models.make_mesh`, over the first fsdp × tp of the accelerator's chips."""
    return Mesh(np.array(devices(accelerator)[: fsdp * tp]).reshape(fsdp, tp), ("fsdp", "tp"))


@contextlib.contextmanager
def running_on(mesh: Mesh) -> Iterator[None]:
    """While entered, Tunix sees the mesh's devices as the machine's own.

    Its `shard` looks at the first device, and does nothing where that is a CPU: activations would not be sharded as
    they are on the accelerator, and memory would come out wrong without a word.
    """
    real = jax.devices
    jax.devices = lambda *_: list(mesh.devices.flat)
    try:
        with mesh:
            yield
    finally:
        jax.devices = real


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
        self._chosen, self._mesh, self._for_cpu = chosen, mesh, products.on_cpu(mesh) and not estimated
        self.on_cpu = mesh.devices.flat[0].platform == "cpu"
        lora, dtype = chosen["training"]["lora"], jnp.dtype(chosen["model"]["dtype"])
        with running_on(mesh):
            self._base = models.abstract(models.config(chosen["model"]["architecture"]), mesh, dtype)
            self._policy = models.policy(self._base, lora, chosen["seed"], mesh)
        # A quantised reference has zero adapters: the same shapes as the policy.
        self._reference = self._policy if lora and lora["base_weights"] else self._base
        self._trainer = self._make_trainer()
        self._step, _ = self._trainer.jit_train_and_eval_step()
        self._states: dict[str, object] = {}
        adapters, weights = nnx.state(self._policy, nnx.LoRAParam, ...)
        self.base_parameters = models.count_parameters(self._base)
        self.lora_parameters = models.count_parameters(self._policy, nnx.LoRAParam)
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
        with running_on(self._mesh):
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
            rollout.cache_tokens(self._chosen["prompt"]["max_tokens"], room)
            for room in rollout.rooms(how["max_completion_tokens"])
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
        config = training.cluster_config(
            self._mesh, how, prompt["max_tokens"], STOP_IDS, self._chosen["seed"], None, gather_weights=True
        ).training_config
        graph, state = nnx.split(self._policy)
        made = optimizer_graph = None

        def make(state: nnx.State) -> nnx.State:
            nonlocal made, optimizer_graph
            made = rl_trainer.Trainer(nnx.merge(graph, state), config.actor_optimizer, config, dict, object())
            optimizer_graph, optimizer_state = nnx.split(made.optimizer)
            return optimizer_state

        optimizer_state = models.sharded(jax.eval_shape(make, state), self._mesh)
        made.model, made.optimizer = self._policy, nnx.merge(optimizer_graph, optimizer_state)
        training.set_loss(made, training.grpo_config(how), NoTokenizer().pad_id(), how["remat"], self._for_cpu)
        return made

    def _array(self, shape: tuple[int, ...], dtype: object, axis: str | None = "fsdp") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self._mesh, PartitionSpec(axis)))

    def _example(self) -> grpo.TrainExample:
        """A micro-batch as `Learner` makes it, of the longest completions."""
        how = self._chosen["training"]
        rows = self.rows("train_step")
        copies = padding.prompt_copies(how["micro_batch_prompts"], how["num_generations"], self._mesh.shape["fsdp"])
        prompts = how["micro_batch_prompts"] * copies
        prompt, completion = (prompts, self._chosen["prompt"]["max_tokens"]), (rows, how["max_completion_tokens"])
        log_probs = self._array(completion, jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        return grpo.TrainExample(
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
        return log_probs.compute.lower(
            *nnx.split(model), example.prompt_ids, example.completion_ids, None, NoTokenizer().pad_id(), temperature
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019 (lives as long as this object's process)
    def _sampler(self, stage: str) -> "Sampling":
        """Of rollouts or of evaluation."""
        how = self._chosen["evaluation" if stage == "evaluation" else "training"]
        limits = self._chosen["prompt"]["max_tokens"], how["max_completion_tokens"]
        gather = self._chosen["mesh"]["decode_weights"] == "gathered"
        rows = self.rows(f"{stage}_prefill")
        repeats = math.gcd(how["samples"], rows) if stage == "evaluation" else how["num_generations"]
        drawing = rollout.Drawing(limits[1], STOP_IDS, how["temperature"], how["top_k"], how["top_p"])
        lora, cache_tokens = self._chosen["training"]["lora"], rollout.cache_tokens(*limits)
        with running_on(self._mesh):
            sampler = rollout.Sampler(
                self._policy, NoTokenizer(), cache_tokens, self._mesh, gather, lora, self._for_cpu
            )
            prefill = sampler.lower_prefill(rows, repeats, limits[0], drawing)
        return Sampling(sampler, drawing, prefill, sampler.abstract_state(prefill))


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A sampler, how it draws, its program for prompts, and what that returns, without values."""

    sampler: rollout.Sampler
    how: rollout.Drawing
    prefill: jax.stages.Lowered
    state: rollout.State


def compile_program(programs: Programs, name: str, level: str) -> dict:
    """Lowers and compiles one program; says what it takes on each chip.

    Args:
      level: `screen` or `verdict`.

    Returns:
      what `results/README.md` lists for a program, but for the bounds; only `name`, `rows`, the known sizes,
      `needed_bytes` and `error` where the compiler found no room.
    """
    started = time.monotonic()
    record = {
        "name": name,
        "rows": programs.rows(name),
        "kv_cache_bytes": programs.kv_cache_bytes(name),
        "resident_bytes": programs.resident_bytes(name),
        "read_bytes": programs.read_bytes(name),
    }
    lowered = programs.lower(name)
    lowered_after = time.monotonic()
    before = jax.config.jax_optimization_level
    jax.config.update("jax_optimization_level", OPTIMIZATION_LEVELS[level])
    try:
        program = lowered.compile(ON_CPU if programs.on_cpu else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {
            **record,
            "needed_bytes": needed_bytes(str(error)) + record["resident_bytes"],
            "error": str(error).splitlines()[0],
            "compile_seconds": round(time.monotonic() - lowered_after, 1),
        }
    finally:
        jax.config.update("jax_optimization_level", before)
    ended = time.monotonic()
    programs.compiled(name, program)
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    peak = memory.peak_memory_in_bytes
    if programs.on_cpu:  # its peak leaves temporaries out
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = kept + memory.temp_size_in_bytes
    needed = peak + memory.generated_code_size_in_bytes
    if name.endswith("decode"):
        needed = max(needed, memory.argument_size_in_bytes + programs.shorter_cache_bytes(name))
    return {
        **record,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "peak_bytes": peak,
        "needed_bytes": needed + record["resident_bytes"],
        "flops": cost.get("flops", 0.0),
        "bytes_accessed": cost.get("bytes accessed", 0.0),
        "collectives": hlo.collectives(program.as_text()),
        "lower_seconds": round(lowered_after - started, 1),
        "compile_seconds": round(ended - lowered_after, 1),
    }


def needed_bytes(error: str) -> int:
    """What a program wanted, out of the compiler's text about exhausted memory; 0 where it says no number.

    The texts: `… HLO temporaries (16.23G) exceeds available HBM (15.75G)`, `Used 17.05G of 15.75G hbm`.
    """
    found = re.search(r"\(([0-9.]+)([KMGT])\) exceeds available|Used ([0-9.]+)([KMGT]) of", error)
    if not found:
        return 0
    number, unit = [group for group in found.groups() if group]
    return int(float(number) * 1024 ** ("KMGT".index(unit) + 1))


def bounds(record: Mapping, accelerator: Accelerator, dtype: str) -> dict:
    """The least seconds that a program can take on a chip, and what sets them.

    A decoding program: of one token, for which it reads at least its weights and its KV cache. (The compiler's count of
    bytes has what is done once before the loop in it.) `before_loop_seconds` is for the gathering of the weights.
    """
    decodes = record["name"].endswith("decode")
    moved = {place: sum(kind["bytes"] for kind in kinds.values()) for place, kinds in record["collectives"].items()}
    seconds = {
        "compute": record["flops"] / accelerator.peak_flops[dtype],
        "memory": record["read_bytes" if decodes else "bytes_accessed"] / accelerator.hbm_bytes_per_second,
    }
    before_loop = 0.0
    if accelerator.interconnect_bytes_per_second:
        looped, outside = (
            moved[place] / accelerator.interconnect_bytes_per_second for place in ("in_loops", "outside")
        )
        seconds["interconnect"] = looped if decodes else looped + outside
        before_loop = outside if decodes else 0.0
    bound_by = max(seconds, key=seconds.get)
    return {
        "bound_seconds": seconds[bound_by],
        "bound_by": bound_by,
        "seconds_by": seconds,
        **({"before_loop_seconds": before_loop} if decodes else {}),
    }


def estimate(records: list[dict], chosen: Mapping, accelerator: Accelerator, price_per_chip_hour: float | None) -> dict:
    """The least time of a step and of the whole training, from the programs' bounds."""
    how = chosen["training"]
    bound = {record["name"]: record["bound_seconds"] for record in records}
    micro_batches = how["prompts_per_step"] // how["micro_batch_prompts"]
    calls = {
        stage: bound[f"{stage}_prefill"]
        + chosen[block]["max_completion_tokens"] * bound[f"{stage}_decode"]
        + sum(record["before_loop_seconds"] for record in records if record["name"] == f"{stage}_decode")
        for stage, block in (("rollout", "training"), ("evaluation", "evaluation"))
    }
    rollouts = micro_batches * calls["rollout"]
    log_probs = micro_batches * (bound.get("reference_log_probs", 0.0) + bound.get("old_log_probs", 0.0))
    updates = micro_batches * how["num_iterations"] * bound["train_step"]
    step = rollouts + log_probs + updates
    hours = step * how["max_steps"] / 3600
    return {
        "is": "an estimate" if accelerator.estimated else "a lower bound",
        "step_seconds": step,
        "rollout_seconds": rollouts,
        "log_probs_seconds": log_probs,
        "update_seconds": updates,
        "evaluation_batch_seconds": calls["evaluation"],
        "training_hours": hours,
        "price": None if price_per_chip_hour is None else hours * accelerator.chips * price_per_chip_hour,
        "assumptions": [
            "every program runs at the chip's peak of whatever bounds it (compute, memory or interconnect), by the "
            "compiler's own counts of FLOPs and bytes; real programs reach a part of it",
            f"every completion is as long as the limit, {how['max_completion_tokens']} tokens; shorter ones take less",
            "no time on the host: rewards, tokenizer, dispatch, checkpoints, compilation",
            "no evaluation, no download, no draws in place of groups without signal",
            *(
                ["bytes are of the CPU compiler's program, less fused and in float32: the card's may move fewer"]
                if accelerator.estimated
                else []
            ),
        ],
    }


def mesh_sizes(chosen: Mapping, chips: int) -> list[dict]:
    """All meshes over exactly so many chips that the recipe's sizes divide into; most fsdp first."""
    sizes = [{"fsdp": chips // tp, "tp": tp} for tp in range(1, chips + 1) if chips % tp == 0]
    return [size for size in sizes if not list(settings.mesh_conflicts(settings.merge(chosen, {"mesh": size})))]


def alternatives(chosen: Mapping, failing: list[str], meshes: list[dict]) -> Iterator[dict]:
    """Settings to try where programs do not fit, the cheapest for the user first; each is merged over the recipe's.

    Args:
      chosen: the recipe's settings.
      failing: names of the programs that do not fit.
      meshes: of `mesh_sizes`.
    """
    how, mesh = chosen["training"], chosen["mesh"]
    for size in meshes:
        if size != {"fsdp": mesh["fsdp"], "tp": mesh["tp"]}:
            yield {"mesh": size}
    if mesh["fsdp"] > 1 and mesh["decode_weights"] == "gathered" and any(name.endswith("decode") for name in failing):
        yield {"mesh": {"decode_weights": "sharded"}}
    if "train_step" in failing and not how["remat"]:
        yield {"training": {"remat": True}}
    if any(not name.startswith("evaluation") for name in failing):
        for count in range(how["micro_batch_prompts"] // 2, 0, -1):
            divides = how["prompts_per_step"] % count == 0
            if divides and count * how["num_generations"] % mesh["fsdp"] == 0:
                yield {"training": {"micro_batch_prompts": count}}
    if any(name.startswith("evaluation") for name in failing):
        size = chosen["evaluation"]["batch_size"]
        for batch_size in itertools.takewhile(lambda each: each >= mesh["fsdp"], (size // 2, size // 4, size // 8)):
            yield {"evaluation": {"batch_size": batch_size}}
    if chosen["model"]["dtype"] == "float32":
        yield {"model": {"dtype": "bfloat16"}}


def unshardable(chosen: Mapping, accelerator: Accelerator) -> list[str]:
    """Why these settings cannot be laid over the accelerator's chips; empty where they can."""
    mesh = chosen["mesh"]
    problems = [f"{key}: {problem}" for key, problem in settings.mesh_conflicts(chosen)]
    if mesh["fsdp"] * mesh["tp"] > accelerator.chips:
        problems.append(
            f"mesh: fsdp {mesh['fsdp']} × tp {mesh['tp']} needs {mesh['fsdp'] * mesh['tp']} chips, "
            f"{accelerator.name} has {accelerator.chips}"
        )
    return problems


def warnings(chosen: Mapping, accelerator: Accelerator) -> list[str]:
    """What is no fault, but wasteful."""
    mesh, found = chosen["mesh"], []
    used = mesh["fsdp"] * mesh["tp"]
    if used < accelerator.chips:
        found.append(f"mesh: {used} of the {accelerator.chips} chips of {accelerator.name} are used")
    rows = min(chosen["evaluation"]["batch_size"], chosen["evaluation"]["rows"] or math.inf)
    if rows % mesh["fsdp"]:
        found.append(f"evaluation.batch_size: fsdp {mesh['fsdp']} does not divide {rows} rows: each chip has them all")
    return found


def examine(chosen: Mapping, accelerator: Accelerator, names: list[str] | None, say: Callable[[str], None]) -> dict:
    """Compiles programs one after the other and says whether they fit.

    Args:
      chosen: the recipe's settings.
      accelerator: what to compile for.
      names: of programs; None is all. With some alone, the first that does not fit is the last that is compiled.
      say: takes lines of progress.

    Returns:
      {"model": sizes on each chip, "programs": records}.
    """
    dtype, level = chosen["model"]["dtype"], chosen["preflight"]["level"]
    mesh = make_mesh(accelerator, chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    programs = Programs(chosen, mesh, accelerator.estimated)
    wanted, records = programs.names if names is None else names, []
    for number, name in enumerate(wanted, start=1):
        say(f"{name}: compiling ({number} of {len(wanted)})")
        record = compile_program(programs, name, level)
        record["fits"] = "error" not in record and record["needed_bytes"] <= accelerator.usable_hbm_bytes
        if "error" not in record:
            record |= bounds(record, accelerator, dtype)
        records.append(record)
        say(line(record, accelerator))
        if names is not None and not record["fits"]:
            break
    sizes = {
        "base_parameters": programs.base_parameters,
        "lora_parameters": programs.lora_parameters,
        "base_bytes": programs.base_bytes,
        "adapter_bytes": programs.adapter_bytes,
        "optimizer_bytes": programs.optimizer_bytes,
    }
    return {"model": sizes, "programs": records}


def preflight(chosen: Mapping, accelerator: Accelerator, say: Callable[[str], None]) -> dict:
    """The whole answer for one recipe: `results/RECIPE/preflight.json` but for its provenance.

    Args:
      chosen: the blocks seed, mesh, model, prompt, training, evaluation and preflight.
      accelerator: the one that `preflight.accelerator` names.
      say: takes lines of progress.
    """
    meshes = mesh_sizes(chosen, accelerator.chips)
    answer = {
        "accelerator": {
            **dataclasses.asdict(accelerator),
            "compiler": "the CPU's: an estimate" if accelerator.estimated else "the accelerator's own (libtpu)",
        },
        "level": chosen["preflight"]["level"],
        "mesh": dict(chosen["mesh"]),
        "mesh_sizes_that_work": meshes,
        "warnings": warnings(chosen, accelerator),
    }
    problems = unshardable(chosen, accelerator)
    if problems:
        return {**answer, "verdict": "cannot be sharded", "reasons": problems}
    examined = examine(chosen, accelerator, None, say)
    records = examined["programs"]
    failing = [record for record in records if not record["fits"]]
    answer |= examined
    answer["warnings"] += [
        f"{record['name']}: {shown_gib(record['needed_bytes'])} of {shown_gib(accelerator.usable_hbm_bytes)} GiB at "
        "level screen, which has been seen 40 % below and 16 % above the default level; ask again with preflight.level "
        "verdict"
        for record in records
        if answer["level"] == "screen" and abs(record["needed_bytes"] / accelerator.usable_hbm_bytes - 1) < CLOSE
    ]
    if not failing:
        price = chosen["preflight"]["price_per_chip_hour"]
        return {**answer, "verdict": "fits", "estimate": estimate(records, chosen, accelerator, price)}
    reasons = [
        f"{record['name']} needs {shown_gib(record['needed_bytes'])} GiB a chip, {accelerator.name} has "
        f"{shown_gib(accelerator.usable_hbm_bytes)}"
        for record in failing
    ]
    return {**answer, "verdict": "does not fit", "reasons": reasons, "tried": _tried(chosen, accelerator, failing, say)}


def _tried(chosen: Mapping, accelerator: Accelerator, failing: list[dict], say: Callable[[str], None]) -> list[dict]:
    """Compiles the failing programs, then all, with other settings, until some fit; alone, then with the others."""
    names = [record["name"] for record in failing]
    needed = _with_prefills(names)
    tried, together = [], {}

    def attempt(change: dict) -> bool:
        say(f"trying {change}")
        other = settings.merge(chosen, change)
        programs = examine(other, accelerator, needed, say)["programs"]
        if all(record["fits"] for record in programs):
            programs = examine(other, accelerator, None, say)["programs"]
        fits = all(record["fits"] for record in programs)
        tried.append({"settings": change, "fits": fits, "programs": programs})
        return fits

    for change in alternatives(chosen, names, mesh_sizes(chosen, accelerator.chips)):
        if attempt(change):
            return tried
        if "fsdp" in change.get("mesh", {}):  # meshes exclude one another
            continue
        more = settings.merge(together, change)
        if more != change and attempt(more):  # with what did not do alone
            return tried
        together = more
    return tried


def _with_prefills(names: list[str]) -> list[str]:
    """The same, each decoding after its prefill: that says how its arguments are sharded."""
    wanted = []
    for name in names:
        before = name.replace("decode", "prefill")
        wanted += [each for each in dict.fromkeys((before, name)) if each not in wanted]
    return wanted


def shown_gib(size: float) -> str:
    """Bytes for people, in GiB."""
    return f"{size / GIB:,.2f}"


def line(record: Mapping, accelerator: Accelerator) -> str:
    """One program's record for people."""
    text = f"{record['name']}: {shown_gib(record['needed_bytes'])} of {shown_gib(accelerator.usable_hbm_bytes)} GiB, "
    if "error" in record:
        return f"{text}does not fit ({record['error']}); compiled in {record['compile_seconds']:.0f} s"
    looped = ""
    if record["name"].endswith("decode"):
        gathers = record["collectives"]["in_loops"].get("all-gather", {"count": 0, "bytes": 0})
        looped = f", {gathers['count']} all-gathers of {gathers['bytes'] / 1e6:.3g} MB a token"
    return (
        f"{text}{'fits' if record['fits'] else 'does not fit'}; {record['flops'] / 1e12:.3g} TFLOP, at least "
        f"{record['bound_seconds'] * 1000:.3g} ms ({record['bound_by']}){looped}; compiled in "
        f"{record['compile_seconds']:.0f} s"
    )


def table(answer: Mapping) -> str:
    """The answer for people."""
    accelerator, mesh = answer["accelerator"], answer["mesh"]
    lines = [
        f"{accelerator['name']}: {accelerator['chips']} chips of {shown_gib(accelerator['usable_hbm_bytes'])} GiB; "
        f"mesh fsdp {mesh['fsdp']} × tp {mesh['tp']}; compiled by {accelerator['compiler']}, level {answer['level']}"
    ]
    if "programs" in answer:
        lines += ["", *_rows(answer["programs"])]
    for attempt in answer.get("tried", ()):
        lines += ["", f"with {attempt['settings']}: {'fits' if attempt['fits'] else 'does not fit'}"]
        lines += _rows(attempt["programs"])
    lines += ["", *(f"WARNING: {text}" for text in answer["warnings"])]
    lines.append(f"{answer['verdict']}" + "".join(f"\n  {text}" for text in answer.get("reasons", ())))
    if answer["verdict"] == "cannot be sharded":
        works = ", ".join(f"fsdp {size['fsdp']} × tp {size['tp']}" for size in answer["mesh_sizes_that_work"])
        lines.append(f"  meshes of {accelerator['chips']} chips that work: {works or 'none'}")
    if "tried" in answer:
        fitting = [attempt["settings"] for attempt in answer["tried"] if attempt["fits"]]
        lines.append(f"  fits with {fitting[0]}" if fitting else "  none of the settings that were tried makes it fit")
    if "estimate" in answer:
        bound = answer["estimate"]
        price = "" if bound["price"] is None else f", at a price of {bound['price']:,.2f} or more"
        lines.append(
            f"at least {bound['step_seconds']:.2f} s a step (rollout {bound['rollout_seconds']:.2f}, log-probs "
            f"{bound['log_probs_seconds']:.2f}, update {bound['update_seconds']:.2f}), "
            f"{bound['training_hours']:.2f} hours of training{price}: {bound['is']}"
        )
        lines += [f"  assuming {text}" for text in bound["assumptions"]]
    return "\n".join(lines)


def _rows(records: list[dict]) -> list[str]:
    columns = ("arguments", "temporaries", "peak", "beside it", "needed", "KV cache")
    keys = ("argument_bytes", "temporary_bytes", "peak_bytes", "resident_bytes", "needed_bytes", "kv_cache_bytes")
    lines = [f"{'GiB a chip':<20}" + "".join(f"{name:>12}" for name in columns) + "  TFLOP     bound"]
    for record in records:
        cells = "".join(f"{shown_gib(record[key]) if key in record else '-':>12}" for key in keys)
        bound = (
            f" {record['flops'] / 1e12:7.3g}  {record['bound_seconds'] * 1000:7.3g} ms {record['bound_by']}"
            if ("bound_seconds" in record)
            else ""
        )
        lines.append(f"{record['name']:<20}{cells}{bound}" + ("" if record["fits"] else "  DOES NOT FIT"))
    return lines
