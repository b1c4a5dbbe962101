"""Combinations of settings that no single setting's type rules out."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.batch_sizes import micro_batch, rollout_batch, step_completions
from gsm8k_grpo.config.blocks_training import REWARDS
from gsm8k_grpo.config.schema import validated
from gsm8k_grpo.data.transfer_sets import SECOND_GOLD
from gsm8k_grpo.models import families
from gsm8k_grpo.rewards import controls, custom
from gsm8k_grpo.rewards.answers import Tags

LARGEST_MESH_AXIS = 1024  # of those that a message suggests
MOST_CHECKPOINTS = 500  # each is kept and evaluated, and one command names the evaluations of all


def check_settings(settings: Mapping, where: str, root: Path = ROOT) -> dict:
    """Validates merged settings: types and limits, then what spans several keys, then files of code that they name.

    Args:
      settings: all blocks.
      where: begins the message of an error.
      root: the project's folder, to which paths of custom rewards are relative.

    Returns:
      the settings as plain values.

    Raises:
      PipelineError: one sentence that names the first faulty key.
    """
    checked = validated(settings, where)
    for key, problem in _all_conflicts(checked):
        raise PipelineError(f"{where}: {key}: {problem}")
    fault = custom.find_fault(checked["training"]["rewards"], REWARDS, root)
    if fault:
        raise PipelineError(f"{where}: training.rewards: {fault}")
    return checked


def _all_conflicts(settings: Mapping) -> Iterator[tuple[str, str]]:
    """Yields (key, problem) for combinations that no single key's type rules out."""
    training = settings["training"]
    shape = families.architecture_sizes(settings["model"]["architecture"])
    yield from _dataset_conflicts(settings["dataset"], settings["prompt"]["dev_rows"])
    yield from _model_conflicts(settings["model"])
    yield from _architecture_conflicts(shape, training["lora"]["target_modules"] if training["lora"] else [])
    yield from mesh_conflicts(settings)
    yield from _row_conflicts(settings)
    yield from _second_gold_conflicts(settings)
    yield from _published_conflicts(settings["published"])
    for block in ("training", "evaluation"):
        top_k = settings[block]["top_k"]
        if top_k and top_k > shape["vocabulary_size"]:
            yield f"{block}.top_k", f"{top_k} is more than the {shape['vocabulary_size']} pieces of the vocabulary"
    samples = settings["evaluation"]["samples"]
    if samples > 1 and not settings["evaluation"]["temperature"]:
        yield (
            "evaluation.samples",
            f"{samples} greedy completions of a prompt are all the same; set evaluation.temperature above 0",
        )
    yield from _training_conflicts(training)
    yield from _control_conflicts(settings["controls"], training)
    tags = Tags.of(settings["prompt"])
    for key, tag in settings["prompt"]["tags"].items():
        if not tag.strip():
            yield f"prompt.tags.{key}", f"the tag {tag!r} is blank, so that it would stand everywhere; choose another"
        if any(map(str.isdecimal, tag)):
            yield f"prompt.tags.{key}", f"the digit in {tag!r} would be read as an answer; choose a tag without digits"
    if (tag := tags.find_overlap()) is not None:
        yield "prompt.tags", f"the tag {tag!r} is a part of another tag; choose four that do not contain each other"
    if not tags.reasoning.can_be_met():
        yield "prompt.reasoning", "nothing would count as reasoning; give calculations, words or both a number"


def _dataset_conflicts(dataset: Mapping, dev_rows: int) -> Iterator[tuple[str, str]]:
    train_rows = dataset["train_rows"]
    if dataset["source"] == "generated" and not (train_rows and dataset["test_rows"]):
        yield "dataset.train_rows", "source generated needs numbers for dataset.train_rows and dataset.test_rows"
    if dataset["source"] == "jsonl" and not dataset["path"]:
        yield "dataset.path", "source jsonl needs the folder with train.jsonl and test.jsonl"
    if train_rows and train_rows <= dev_rows:
        yield "prompt.dev_rows", f"{dev_rows} held-out rows leave none of the {train_rows} train rows; hold out fewer"


def _model_conflicts(model: Mapping) -> Iterator[tuple[str, str]]:
    source, handle, revision = model["source"], model["handle"], model["revision"]
    parts = len(handle.split("/")) if handle else 0
    if source == "kaggle" and parts != 4:
        example = "google/gemma-2/flax/gemma2-2b-it"
        yield "model.handle", f"source kaggle needs a handle such as {example}; a version goes into model.revision"
    if source == "kaggle" and revision is not None and not (isinstance(revision, int) and revision > 0):
        yield "model.revision", f"{revision!r} is no version of a Kaggle model; expected a number from 1, or null"
    if source == "huggingface" and parts != 2:
        yield "model.handle", "source huggingface needs a handle such as google/gemma-2-2b-it"
    if source == "huggingface" and isinstance(revision, int):
        yield "model.revision", f"{revision} is no revision of Hugging Face; expected a commit, tag or branch, or null"
    if source == "local" and not model["path"]:
        yield "model.path", "source local needs the folder of the model's files"
    if source != "local" and "lfm2" in (handle or "").lower():
        yield "model.handle", families.LFM2_UNSUPPORTED
    if source == "pretrained" and not (model["pretraining"] and isinstance(model["architecture"], Mapping)):
        yield "model.pretraining", "source pretrained needs model.pretraining and the sizes of model.architecture"


def _architecture_conflicts(shape: Mapping, target_modules: list[str]) -> Iterator[tuple[str, str]]:
    """Yields (key, problem) for sizes that make no model of the family, and for modules that the family lacks."""
    family, heads, kv_heads = families.FAMILIES[shape["family"]], shape["num_heads"], shape["num_kv_heads"]
    if heads % kv_heads:
        yield "model.architecture.num_kv_heads", f"{kv_heads} does not divide num_heads {heads}"
    if heads == kv_heads and "kv_einsum" in family.lora_modules:
        yield (
            "model.architecture.num_kv_heads",
            f"with as many KV heads as num_heads ({heads}), Tunix makes one matrix for queries, keys and values, which "
            "training.lora.target_modules cannot name; use fewer",
        )
    window = shape["sliding_window_tokens"]
    if family.windowed and window is None:
        yield "model.architecture.sliding_window_tokens", f"{family.title} has local layers: expected a number"
    if not family.windowed and window is not None:
        yield "model.architecture.sliding_window_tokens", f"{family.title} has no local layers: expected null"
    for module in target_modules:
        if module not in family.lora_modules:
            yield (
                "training.lora.target_modules",
                f"{family.title} has no module {module}; it has {', '.join(family.lora_modules)}",
            )


def _row_conflicts(settings: Mapping) -> Iterator[tuple[str, str]]:
    """Yields (key, problem) for more rows than there are."""
    dataset, evaluation, dev_rows = settings["dataset"], settings["evaluation"], settings["prompt"]["dev_rows"]
    split, rows, selection_rows = evaluation["split"], evaluation["rows"], evaluation["selection_rows"]
    split_rows = dataset["test_rows"] if split == "test" else dev_rows
    if rows and split_rows and rows > split_rows:
        yield "evaluation.rows", f"{rows} rows are more than the {split_rows} of the {split} split"
    if selection_rows and selection_rows > dev_rows:
        yield "evaluation.selection_rows", f"{selection_rows} rows are more than the {dev_rows} of the dev split"
    prompts = settings["training"]["prompts_per_step"]
    if dataset["train_rows"] and prompts > dataset["train_rows"] - dev_rows:
        train_rows = dataset["train_rows"] - dev_rows
        yield "training.prompts_per_step", f"{prompts} prompts are more than the {train_rows} rows to train on"


def _second_gold_conflicts(settings: Mapping) -> Iterator[tuple[str, str]]:
    """Yields (key, problem) for corrected labels without a row that they could label."""
    evaluation = settings["evaluation"]
    if SECOND_GOLD not in {each["name"] for each in evaluation["transfer"]}:
        return
    if evaluation["split"] != "test":
        yield (
            "evaluation.transfer",
            f"{SECOND_GOLD} labels test rows alone: leave it out, or evaluate on test",
        )
    if settings["dataset"]["source"] == "generated":
        yield "evaluation.transfer", f"{SECOND_GOLD} labels rows of GSM8K, and these rows are generated; leave it out"


def _published_conflicts(published: Mapping | None) -> Iterator[tuple[str, str]]:
    for index, value in enumerate(published["values"] if published else []):
        for key in ("base", "trained"):
            counts = value[key]
            if isinstance(counts, Mapping) and counts["correct"] > counts["n"]:
                where = f"published.values.{index}.{key}.correct"
                yield where, f"{counts['correct']} are more than the {counts['n']} rows of n"


def _training_conflicts(training: Mapping) -> Iterator[tuple[str, str]]:
    steps, generations = training["max_steps"], training["num_generations"]
    completions = step_completions(training)
    for key in ("micro_batch_completions", "rollout_batch_completions"):
        if training[key] and completions % training[key]:
            yield f"training.{key}", f"{training[key]} does not divide the {completions} completions of a step"
    size, rollouts = micro_batch(training), training["rollout_batch_completions"]
    if size % generations and generations % size:
        yield (
            "training.micro_batch_completions",
            f"{size} is neither a multiple nor a divisor of num_generations {generations}",
        )
    if rollouts and rollouts % generations:
        yield "training.rollout_batch_completions", f"{rollouts} is no multiple of num_generations {generations}"
    interval = training["checkpoint_interval_steps"]
    if interval > steps:
        yield "training.checkpoint_interval_steps", f"{interval} lies beyond the last step (max_steps {steps})"
    if -(-steps // interval) > MOST_CHECKPOINTS:
        yield (
            "training.checkpoint_interval_steps",
            f"{interval} makes {-(-steps // interval):,} checkpoints, and each is kept and evaluated; take at least "
            f"{-(-steps // MOST_CHECKPOINTS):,}, which makes {MOST_CHECKPOINTS} at most",
        )
    if training["lora"] and training["lora"]["dropout"] and training["num_iterations"] > 1:
        yield (
            "training.lora.dropout",
            "with num_iterations > 1, dropout adds noise to the ratio to the old policy; set dropout to 0 or "
            "num_iterations to 1",
        )
    schedule = training["schedule_steps"]
    if schedule and schedule < steps and not training["final_learning_rate_fraction"]:
        yield (
            "training.schedule_steps",
            f"{schedule} is less than max_steps {steps}: the steps after it would have a learning rate of 0",
        )
    if training["method"] == "rejection_sampling":
        yield from _rejection_sampling_conflicts(training)
    if training["warm_start_steps"]:
        yield from _warm_start_conflicts(training)
    buffer, limit = training["overlong_buffer_tokens"], training["max_completion_tokens"]
    if training["truncated_completions"] == "penalise" and buffer > limit:
        yield "training.overlong_buffer_tokens", f"{buffer} is more than max_completion_tokens {limit}"


def _warm_start_conflicts(training: Mapping) -> Iterator[tuple[str, str]]:
    """Yields (key, problem) for settings that leave a warm start no sense."""
    steps = training["warm_start_steps"]
    if training["method"] == "rejection_sampling":
        yield "training.warm_start_steps", "method rejection_sampling is a warm start throughout; set it to 0"
    if steps >= training["max_steps"]:
        yield "training.warm_start_steps", f"{steps} steps leave none of the {training['max_steps']} for GRPO"
    if training["num_iterations"] > 1:
        yield "training.num_iterations", "a warm start makes one pass over each batch; set it to 1"
    yield from _base_samples_conflicts(training, "a warm start")


def _base_samples_conflicts(training: Mapping, what: str) -> Iterator[tuple[str, str]]:
    """Yields (key, problem) where training leaves no base model that could sample."""
    if not training["lora"] or training["lora"]["base_weights"]:
        yield (
            "training.lora",
            f"{what} samples from the base model, whose weights must stay in memory as they are; set training.lora, "
            "with base_weights null",
        )


def _rejection_sampling_conflicts(training: Mapping) -> Iterator[tuple[str, str]]:
    """Yields (key, problem) for settings that only GRPO has."""
    yield from _base_samples_conflicts(training, "method rejection_sampling")
    only = {"beta": 0, "num_iterations": 1, "dynamic_sampling_draws": 0, "control": None}
    for key, value in only.items():
        if training[key] != value:
            expected = "null" if value is None else value
            yield f"training.{key}", f"method rejection_sampling has none; set it to {expected}"


def _control_conflicts(wanted: list[str], training: Mapping) -> Iterator[tuple[str, str]]:
    if wanted and training["method"] == "rejection_sampling":
        yield "controls", "they replace rewards, and method rejection_sampling uses none; leave them out"
    if wanted and training["control"]:
        yield "controls", f"training.control is {training['control']}, so this run is a control itself; set only one"
    for key, names in (("controls", wanted), ("training.control", [training["control"]])):
        if "format_only" in names and (fault := controls.format_only_fault(training["rewards"])):
            yield key, fault


def mesh_conflicts(settings: Mapping) -> Iterator[tuple[str, str]]:
    """Yields (key, problem) for sizes that the mesh does not divide: Tunix would fail late, or replicate in silence."""
    training = settings["training"]
    shape = families.architecture_sizes(settings["model"]["architecture"])
    widths = {"embed_dim": shape["embed_dim"], "hidden_dim": shape["hidden_dim"]}
    completions = math.gcd(micro_batch(training), rollout_batch(training))
    sharded = {
        # Query heads are a multiple of the KV heads, so what divides these divides those.
        "tp": {"KV heads": shape["num_kv_heads"]} | widths | {"pieces of the vocabulary": shape["vocabulary_size"]},
        "fsdp": widths | {"completions of a batch (micro_batch_completions, rollout_batch_completions)": completions},
    }
    for axis, sizes in sharded.items():
        devices = settings["mesh"][axis]
        undivided = [name for name, size in sizes.items() if size % devices]
        if undivided:
            common = math.gcd(*sizes.values())
            choices = [str(size) for size in range(1, min(common, LARGEST_MESH_AXIS) + 1) if common % size == 0]
            yield (
                f"mesh.{axis}",
                f"{devices} does not divide the {sizes[undivided[0]]} {undivided[0]}; with these settings it can be "
                f"{', '.join(choices)}",
            )
