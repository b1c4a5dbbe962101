"""Effective settings: config.yaml, a recipe over it, the command line over both; checked before any job starts."""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import yaml

from gsm8k_grpo import families, miniature, own_rewards
from gsm8k_grpo.errors import PipelineError

ROOT = Path(__file__).parents[2]
LFM2 = (
    "LFM2 is not supported: Tunix has no such model, and LFM2-350M was tried on this task and never writes the tags; "
    "take a Gemma or Qwen2.5 model"
)
# GSM8K where a hub has it; whatever other handle is given, its rows are checked against the published ones.
GSM8K_HANDLES = {"huggingface": "openai/gsm8k", "kaggle": "thedevastator/grade-school-math-8k-q-a"}
RESERVED = ("data", "models", "logs", "cache")  # folders of results/ that are no recipe's
# JSON Schema takes 100.0 for an integer, which Python's range() does not, and YAML's .nan and .inf for numbers.
_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
    {
        "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda _, value: (
            not isinstance(value, bool)
            and (isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)))
        ),
    }
)
Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)


def merge(below: Mapping, above: Mapping) -> dict:
    """`above` over `below`: mappings key by key, everything else replaced whole."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def retyped(value: Any) -> Any:
    """What `--config` sets, with its numbers, booleans and nulls: Snakemake leaves those inside of mappings as text."""
    if isinstance(value, Mapping):
        return {key: retyped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [retyped(item) for item in value]
    if isinstance(value, str) and value:
        tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, value, (True, False))
        if tag.rpartition(":")[2] in ("int", "float", "bool", "null"):
            return yaml.safe_load(value)
    return value


def read_yaml(path: Path) -> dict:
    """A YAML file that holds one mapping (or nothing)."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an impossible date such as 2024-13-01
        raise PipelineError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PipelineError(f"{path}: expected keys and values, found {type(value).__name__}")
    return value


@functools.cache
def schema(root: Path = ROOT) -> dict:
    """The configuration's JSON schema."""
    return read_yaml(root / "schemas" / "config.schema.yaml")


def recipe_names(selected: str | list[str]) -> list[str]:
    """`config["recipes"]` as a list: one name, several with commas, or a list.

    Raises:
      PipelineError: none, one twice, or something that is no name.
    """
    names = [name.strip() for name in selected.split(",")] if isinstance(selected, str) else selected
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise PipelineError(f"recipes: expected a recipe's name or a list of names, found {selected!r}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PipelineError(f"recipes: {twice[0]!r} is named twice")
    return names


def effective(recipe: str, overrides: Mapping, root: Path = ROOT) -> dict:
    """One recipe's effective settings, validated.

    Args:
      recipe: name of a file in recipes/.
      overrides: what the command line sets (`--config`, `--configfile`).
      root: the project's folder.

    Raises:
      PipelineError: one sentence that names the recipe and the key.
    """
    if recipe in RESERVED:
        raise PipelineError(f"recipes: {recipe!r} is a folder of results/ already; name the recipe otherwise")
    known = {path.stem: path for path in (root / "recipes").glob("*.yaml")}
    if recipe not in known:
        raise PipelineError(f"recipes: there is no recipe {recipe!r}; there are {', '.join(sorted(known))}")
    below = merge(read_yaml(root / "config.yaml"), read_yaml(known[recipe]))
    merged, where = merge(below, overrides), f"recipe {recipe}"
    check_types(_of_any_size(merged), where)
    if merged["miniature"] and merged["model"]["source"] == "pretrained":
        merged = merged | {"miniature": False}  # it is one already
    elif merged["miniature"]:
        small = miniature.overlay(recipe, merged, read_yaml(root / "recipes" / "tiny.yaml"))
        merged, where = merge(merge(merge(below, small), below["at_miniature_size"]), overrides), f"{where} (miniature)"
    check(merged, where, root)
    return merged


def _of_any_size(settings: Mapping) -> Mapping:
    """Settings as they can be checked before a miniature is made of them: a part of `model.pretraining` may be set."""
    model = settings["model"]
    if settings["miniature"] is True and isinstance(model, Mapping):
        return settings | {"model": model | {"pretraining": None}}
    return settings


def run_names(recipe: str, chosen: Mapping) -> list[str]:
    """The folders below results/ of a recipe's runs: RECIPE or RECIPE-miniature, and one for each of several seeds.

    Args:
      recipe: its name.
      chosen: its effective settings.
    """
    name = f"{recipe}-miniature" if chosen["miniature"] else recipe
    return [f"{name}-seed-{seed}" for seed in chosen["seeds"]] if chosen["seeds"] else [name]


def seeded(selected: str | list[str], loaded: Mapping[str, Mapping]) -> dict[str, list[str]]:
    """Which recipes (or their miniatures) have several seeds, and their runs among those that `load_selected` found."""
    found: dict[str, list[str]] = {}
    for recipe in recipe_names(selected):
        for name, chosen in loaded.items():
            if chosen["seeds"] and run_names(recipe, chosen | {"seeds": [chosen["seed"]]}) == [name]:
                found.setdefault(name.removesuffix(f"-seed-{chosen['seed']}"), []).append(name)
    return found


def load_selected(selected: str | list[str], overrides: Mapping, root: Path = ROOT) -> dict[str, dict]:
    """The effective settings of all runs of the selected recipes, by name (`run_names`).

    Recipes that share a name of data or model must agree.

    Raises:
      PipelineError: as `effective` and `recipe_names`, and for one folder claimed with two meanings.
    """
    loaded: dict[str, dict] = {}
    for recipe in recipe_names(selected):
        chosen = effective(recipe, overrides, root)
        for name, seed in zip(run_names(recipe, chosen), chosen["seeds"] or [chosen["seed"]], strict=True):
            if name in loaded:
                raise PipelineError(f"recipes: {name!r} is a recipe and a seed of another; rename the recipe")
            loaded[name] = chosen | {"seed": seed}
    owners: dict[str, tuple[str, object]] = {}
    for recipe, chosen in loaded.items():
        dataset, model = chosen["dataset"], chosen["model"]
        # A miniature is made from its data set: the same model on other data is another model.
        made_from = [model, dataset] if model["source"] == "pretrained" else [model]
        for folder, meaning in ((f"data/{dataset['name']}", dataset), (f"models/{model['name']}", made_from)):
            owner, first = owners.setdefault(folder, (recipe, meaning))
            if first != meaning:
                key = "dataset.name" if folder.startswith("data/") else "model.name"
                raise PipelineError(
                    f"recipes {owner} and {recipe}: {key}: both write results/{folder}, with different settings; "
                    "give one of them another name"
                )
    return loaded


def check(settings: Mapping, where: str, root: Path = ROOT) -> None:
    """Validates merged settings: the schema first, then what spans several keys, then files of code that they name."""
    check_types(settings, where)
    for key, problem in _conflicts(settings):
        raise PipelineError(f"{where}: {key}: {problem}")
    built_in = schema()["$defs"]["reward"]["else"]["enum"]
    fault = own_rewards.problem(settings["training"]["rewards"], built_in, root)
    if fault:
        raise PipelineError(f"{where}: training.rewards: {fault}")


def check_types(settings: Mapping, where: str) -> None:
    """Validates merged settings by the schema alone."""
    errors = sorted(
        Validator(schema()).iter_errors(settings), key=lambda error: [str(part) for part in error.absolute_path]
    )
    if errors:
        raise PipelineError(f"{where}: {_sentence(jsonschema.exceptions.best_match(errors))}")


def _sentence(error: jsonschema.ValidationError) -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "top level"
    if error.validator == "additionalProperties":
        unknown = sorted(map(str, set(error.instance) - set(error.schema["properties"])))
        known = ", ".join(error.schema["properties"])
        prefix = "" if key == "top level" else f"{key}."
        return f"{prefix}{unknown[0]}: unknown key; there are {known}"
    if error.validator == "type" and isinstance(error.instance, str) and "number" in error.schema["type"]:
        return f"{key}: {error.instance!r} is text, expected a number (write 1.0e-6: YAML reads 1e-6 as text)"
    if error.validator == "required":
        return f"{key}: {error.message}"
    described = error.schema.get("description") or (error.parent and error.parent.schema.get("description"))
    return f"{key}: {error.message}" + (f" ({described.rstrip('.')})" if described else "")


def _conflicts(settings: Mapping):
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
    shape = families.sizes(model["architecture"])
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
        yield "model.handle", LFM2


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
    shape = families.sizes(settings["model"]["architecture"])
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


def frozen(value: Any) -> Any:
    """A read-only view of nested settings."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: frozen(item) for key, item in value.items()})
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value


def thawed(value: Any) -> Any:
    """The same as plain dicts and lists, to write or hash."""
    if isinstance(value, Mapping):
        return {key: thawed(item) for key, item in value.items()}
    return [thawed(item) for item in value] if isinstance(value, (list, tuple)) else value


def stage_settings(argument: str, *blocks: str) -> Mapping:
    """The blocks of settings that a stage's entry point needs, read-only.

    Args:
      argument: JSON text (as the rules pass it), or the path of a results/RECIPE/settings.yaml.
      blocks: top-level keys, all needed.
    """
    text = argument.strip()
    if text.startswith("{"):
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise PipelineError(f"--settings: not valid JSON ({error})") from None
    else:
        path = Path(argument)
        if not path.is_file():
            raise PipelineError(f"--settings: {argument}: no such file")
        settings = read_yaml(path)
        if schema()["properties"].keys() <= settings.keys():  # by hand, from a results/RECIPE/settings.yaml
            check(settings, argument)
    for block in blocks:
        if block not in settings:
            raise PipelineError(f"--settings: no block {block!r}; this stage needs {', '.join(blocks)}")
        part = {**schema()["properties"][block], "$defs": schema()["$defs"]}
        errors = list(Validator(part).iter_errors(settings[block]))
        if errors:
            raise PipelineError(f"--settings: {block}: {_sentence(jsonschema.exceptions.best_match(errors))}")
    return frozen({block: settings[block] for block in blocks})
