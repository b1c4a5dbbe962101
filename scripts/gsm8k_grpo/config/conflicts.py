"""Combinations of settings that no single setting's type rules out."""

import math
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.schema import check_types, config_schema
from gsm8k_grpo.models import families
from gsm8k_grpo.rewards import custom


def check_settings(settings: Mapping, where: str, root: Path = ROOT) -> None:
    """Validates merged settings: the schema first, then what spans several keys, then files of code that they name."""
    check_types(settings, where)
    for key, problem in _all_conflicts(settings):
        raise PipelineError(f"{where}: {key}: {problem}")
    built_in = config_schema()["$defs"]["reward"]["else"]["enum"]
    fault = custom.find_fault(settings["training"]["rewards"], built_in, root)
    if fault:
        raise PipelineError(f"{where}: training.rewards: {fault}")


def _all_conflicts(settings: Mapping):
    """Yields (key, problem) for combinations that no single key's type rules out."""
    dataset, model, training = settings["dataset"], settings["model"], settings["training"]
    if dataset["source"] == "generated" and not (dataset["train_rows"] and dataset["test_rows"]):
        yield "dataset.train_rows", "generated problems need dataset.train_rows and dataset.test_rows as numbers"
    if dataset["source"] == "jsonl" and not dataset["path"]:
        yield "dataset.path", "source jsonl needs the folder of train.jsonl and test.jsonl"
    if dataset["train_rows"] and dataset["train_rows"] <= settings["prompt"]["dev_rows"]:
        yield "prompt.dev_rows", f"holds out all of the {dataset['train_rows']} train rows; hold out fewer"
    yield from _source_conflicts(model)
    if model["source"] == "pretrained" and not (model["pretraining"] and isinstance(model["architecture"], Mapping)):
        yield "model.pretraining", "source pretrained needs model.pretraining and the sizes of model.architecture"
    shape = families.architecture_sizes(model["architecture"])
    lora = training["lora"]
    yield from _architecture_conflicts(shape, lora["target_modules"] if lora else [])
    yield from mesh_conflicts(settings)
    if training["prompts_per_step"] % training["micro_batch_prompts"]:
        yield (
            "training.micro_batch_prompts",
            f"{training['micro_batch_prompts']} does not divide prompts_per_step {training['prompts_per_step']}",
        )
    evaluation = settings["evaluation"]
    split_rows = dataset["test_rows"] if evaluation["split"] == "test" else settings["prompt"]["dev_rows"]
    if evaluation["rows"] and split_rows and evaluation["rows"] > split_rows:
        yield "evaluation.rows", f"{evaluation['rows']} rows wanted, the {evaluation['split']} split has {split_rows}"
    if evaluation["selection_rows"] and evaluation["selection_rows"] > settings["prompt"]["dev_rows"]:
        yield (
            "evaluation.selection_rows",
            f"{evaluation['selection_rows']} rows wanted, the dev split has {settings['prompt']['dev_rows']}",
        )
    train_rows = (dataset["train_rows"] or 0) - settings["prompt"]["dev_rows"]
    if dataset["train_rows"] and training["prompts_per_step"] > train_rows:
        yield "training.prompts_per_step", f"{training['prompts_per_step']} prompts, but only {train_rows} train rows"
    for block in ("training", "evaluation"):
        top_k = settings[block]["top_k"]
        if top_k and top_k > shape["vocabulary_size"]:
            yield f"{block}.top_k", f"{top_k} is more than the {shape['vocabulary_size']} pieces of the vocabulary"
    if evaluation["samples"] > 1 and not evaluation["temperature"]:
        yield (
            "evaluation.samples",
            f"{evaluation['samples']} greedy completions of a prompt are the same one; set evaluation.temperature",
        )
    if training["checkpoint_interval_steps"] > training["max_steps"]:
        yield (
            "training.checkpoint_interval_steps",
            f"{training['checkpoint_interval_steps']} lies beyond the last step (max_steps {training['max_steps']})",
        )
    if training["num_generations"] == 2 and training["advantage_estimator"] == "grpo":
        yield (
            "training.advantage_estimator",
            "with num_generations 2, grpo turns any gap of rewards, 0.001 or 3, into ± 0.707; use rloo or drgrpo, or "
            "more generations",
        )
    if lora and lora["dropout"] and training["num_iterations"] > 1:
        yield (
            "training.lora.dropout",
            "with num_iterations > 1 the ratio to the old policy would be one of dropout's noise; set one of them to "
            "its neutral value (0, 1)",
        )
    if training["schedule_steps"] and training["schedule_steps"] < training["max_steps"]:
        yield (
            "training.schedule_steps",
            f"{training['schedule_steps']} is less than max_steps {training['max_steps']}: the rest would be trained "
            "with a learning rate of 0",
        )
    buffer, limit = training["overlong_buffer_tokens"], training["max_completion_tokens"]
    if training["truncated_completions"] == "penalise" and buffer > limit:
        yield "training.overlong_buffer_tokens", f"{buffer} is more than max_completion_tokens {limit}"
    tags = list(settings["prompt"]["tags"].values())
    for index, tag in enumerate(tags):
        if any(tag in other for other in tags[:index] + tags[index + 1 :]):
            yield "prompt.tags", f"the tag {tag!r} is a part of another tag; the four must tell themselves apart"


def _source_conflicts(model: Mapping):
    """Yields (key, problem) for what the source of a model does not go with."""
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


def _architecture_conflicts(shape: Mapping, target_modules: list[str]):
    """Yields (key, problem) for sizes that make no model of the family, and modules that it does not have."""
    family, heads, kv_heads = families.FAMILIES[shape["family"]], shape["num_heads"], shape["num_kv_heads"]
    if heads % kv_heads:
        yield "model.architecture.num_kv_heads", f"{kv_heads} does not divide num_heads {heads}"
    if heads == kv_heads and "kv_einsum" in family.modules:
        yield (
            "model.architecture.num_kv_heads",
            f"as many as num_heads ({heads}): Tunix then has one matrix for queries, keys and values, which none of "
            "training.lora.target_modules is; use fewer",
        )
    window = shape["sliding_window_tokens"]
    if family.windowed and window is None:
        yield "model.architecture.sliding_window_tokens", f"{family.title} has local layers: expected a number"
    if not family.windowed and window is not None:
        yield "model.architecture.sliding_window_tokens", f"{family.title} has no local layers: expected null"
    for module in target_modules:
        if module not in family.modules:
            yield (
                "training.lora.target_modules",
                f"{module} is no module of {family.title}; there are {', '.join(family.modules)}",
            )


def mesh_conflicts(settings: Mapping):
    """Yields (key, problem) for sizes that the mesh does not divide: Tunix would fail late, or replicate in silence."""
    mesh, training = settings["mesh"], settings["training"]
    shape = families.architecture_sizes(settings["model"]["architecture"])
    sequences = training["micro_batch_prompts"] * training["num_generations"]
    sharded = {
        # Queries are sharded too; with KV heads that divide, they do.
        "tp": {"KV heads": "num_kv_heads", "embed_dim": "embed_dim", "hidden_dim": "hidden_dim"},
        "fsdp": {"embed_dim": "embed_dim", "hidden_dim": "hidden_dim"},
    }
    for axis, names in sharded.items():
        sizes = {name: shape[key] for name, key in names.items()}
        if axis == "fsdp":
            sizes["sequences of a micro-batch (micro_batch_prompts × num_generations)"] = sequences
        else:
            sizes["pieces of the vocabulary"] = shape["vocabulary_size"]
        undivided = [name for name, size in sizes.items() if size % mesh[axis]]
        if undivided:
            common = math.gcd(*sizes.values())
            works = ", ".join(str(size) for size in range(1, common + 1) if common % size == 0 and size <= 1024)
            yield (
                f"mesh.{axis}",
                f"{mesh[axis]} does not divide the {sizes[undivided[0]]} {undivided[0]}; with these settings it can be "
                f"{works}",
            )
