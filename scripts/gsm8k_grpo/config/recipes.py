"""Effective settings: config.yaml, a recipe over it, the command line over both; checked before any job starts."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import RESERVED_NAMES, ROOT
from gsm8k_grpo.config.conflicts import check_settings
from gsm8k_grpo.config.fields import NAME, PATTERNS
from gsm8k_grpo.config.merging import merge, read_yaml
from gsm8k_grpo.config.miniature import miniature_overlay
from gsm8k_grpo.config.schema import validated
from gsm8k_grpo.rewards.controls import CONTROLS

# What `run_name` adds to a recipe's name: the folder of a name that ends so would be that of another recipe's run.
RUN_ENDING = re.compile(rf"-(miniature|seed-\d+|control-({'|'.join(CONTROLS)}))$")


def recipe_names(selected: str | list[str]) -> list[str]:
    """Reads `config["recipes"]` as a list: one name, several with commas, or a list.

    Raises:
      PipelineError: no name, one name twice, or something that is no name.
    """
    names = [name.strip() for name in selected.split(",")] if isinstance(selected, str) else selected
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise PipelineError(f"recipes: expected a recipe's name or a list of names, found {_shown(selected)}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PipelineError(f"recipes: {twice[0]!r} is named twice")
    return names


def _shown(value: object) -> str:
    """The beginning of a value as Python writes it."""
    try:
        return repr(value)[:80]
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of more digits than anyone needs"


def effective_settings(recipe: str, overrides: Mapping, root: Path = ROOT) -> dict:
    """One recipe's effective settings, validated.

    Args:
      recipe: name of a file in recipes/.
      overrides: what the command line sets (`--config`, `--configfile`).
      root: the project's folder.

    Raises:
      PipelineError: one sentence that names the recipe and the key.
    """
    config, where = read_yaml(root / "config.yaml"), f"recipe {recipe}"
    own = _recipe_settings(recipe, root)
    below = merge(config, own)
    if overrides.get("extends", below.get("extends")) != below.get("extends"):
        raise PipelineError(f"{where}: extends: only the recipe's file can set it, not the command line")
    merged = merge(below, overrides)
    settings = validated(_without_partial_pretraining(merged), where)
    _require_model(merge(own, overrides), where)
    if settings["miniature"] and settings["model"]["source"] == "pretrained":
        merged = merged | {"miniature": False}  # it is one already
    elif settings["miniature"]:
        small = miniature_overlay(recipe, settings, merge(config, _recipe_settings("tiny", root)))
        merged, where = (
            merge(merge(merge(below, small), settings["at_miniature_size"]), overrides),
            f"{where} (miniature)",
        )
    return check_settings(merged, where, root)


def _recipe_settings(recipe: str, root: Path) -> dict:
    """What a recipe's file changes, over what the recipe that it extends changes."""
    own = read_yaml(_recipe_file(recipe, root))
    name = own.get("extends")
    if not isinstance(name, str):  # not set, or a fault that validation names
        return own
    if name == recipe:
        raise PipelineError(f"recipe {recipe}: extends: it names itself; name another recipe, or leave it out")
    try:
        extended = read_yaml(_recipe_file(name, root))
    except PipelineError as error:
        raise PipelineError(f"recipe {recipe}: extends: {str(error).removeprefix('recipes: ')}") from error
    if extended.get("extends") is not None:
        raise PipelineError(f"recipe {recipe}: extends: {name!r} extends another recipe itself; name that one")
    return merge(extended, own)


def _require_model(chosen: Mapping, where: str) -> None:
    """Refuses a recipe that would get the model of config.yaml without naming it."""
    if "name" not in chosen.get("model", {}):
        raise PipelineError(
            f"{where}: model.name: this recipe names no model; write `extends: NAME` (such as gemma2-2b-it or tiny) to "
            "go over another recipe, or a block `model` with its name"
        )


def _recipe_file(recipe: str, root: Path) -> Path:
    if recipe in RESERVED_NAMES:
        raise PipelineError(f"recipes: {recipe!r} is already a name in results/; choose another name for the recipe")
    if fault := _run_ending_fault(recipe):
        raise PipelineError(f"recipes: {fault}")
    known = {path.stem: path for path in (root / "recipes").glob("*.yaml")}
    if recipe not in known:
        raise PipelineError(f"recipes: there is no recipe {_shown(recipe)}; there are {', '.join(sorted(known))}")
    if not re.fullmatch(NAME, recipe):
        raise PipelineError(f"recipes: expected {PATTERNS[NAME]}, found {recipe!r}; rename the recipe's file")
    return known[recipe]


def _run_ending_fault(name: str) -> str | None:
    """Why a recipe or variant cannot have this name, if it ends as the folder of a run does."""
    if not (ending := RUN_ENDING.search(name)):
        return None
    return f"{name!r} ends in {ending[0]!r}, as the folder of another recipe's run may do; choose another name"


def _without_partial_pretraining(settings: Mapping) -> Mapping:
    """Settings to check before they become a miniature, which completes a `model.pretraining` that is set in part."""
    model = settings["model"]
    if settings["miniature"] is True and isinstance(model, Mapping):
        return settings | {"model": model | {"pretraining": None}}
    return settings


def run_name(recipe: str, settings: Mapping) -> str:
    """The folder below results/ of one run: RECIPE or its variant's `name`, -miniature, -control-NAME, then -seed-N.

    Args:
      recipe: its name.
      settings: the run's, of `load_selected`.
    """
    name, control = settings["name"] or recipe, settings["training"]["control"]
    name = f"{name}-miniature" if settings["miniature"] else name
    name = f"{name}-control-{control}" if control else name
    return f"{name}-seed-{settings['seed']}" if settings["seeds"] else name


def _check_variant(recipe: str, name: str | None, root: Path) -> None:
    """Refuses a variant that would write into the folder of another recipe, or into one of the pipeline's own."""
    if name in RESERVED_NAMES or (name != recipe and (root / "recipes" / f"{name}.yaml").is_file()):
        raise PipelineError(
            f"recipe {recipe}: name: {name!r} is a recipe, or a folder of results/ already; choose another name"
        )
    if fault := _run_ending_fault(name or ""):
        raise PipelineError(f"recipe {recipe}: name: {fault}")


def _runs(settings: Mapping) -> Iterator[dict]:
    """The settings of each run of a recipe: its own and its controls', each with all seeds."""
    for control in (settings["training"]["control"], *settings["controls"]):
        for seed in settings["seeds"] or [settings["seed"]]:
            yield {**settings, "seed": seed, "controls": [], "training": settings["training"] | {"control": control}}


def runs_by_recipe(loaded: Mapping[str, Mapping]) -> dict[str, list[str]]:
    """The runs of what has several seeds (a recipe, its miniature, a control), by its name without the seed."""
    found: dict[str, list[str]] = {}
    for name, settings in loaded.items():
        if settings["seeds"]:
            found.setdefault(name.removesuffix(f"-seed-{settings['seed']}"), []).append(name)
    return found


def load_selected(selected: str | list[str], overrides: Mapping, root: Path = ROOT) -> dict[str, dict]:
    """The effective settings of all runs of the selected recipes, by name (`run_name`).

    Raises:
      PipelineError: as `effective_settings` and `recipe_names`; for two runs of one name; or for a folder of data or a
        model that two recipes would fill with different contents.
    """
    loaded: dict[str, dict] = {}
    for recipe in recipe_names(selected):
        effective = effective_settings(recipe, overrides, root)
        _check_variant(recipe, effective["name"], root)
        for settings in _runs(effective):
            name = run_name(recipe, settings)
            if name in loaded:
                raise PipelineError(
                    f"recipes: {name!r} is a recipe and a run of another, or two variants have this name; rename one"
                )
            loaded[name] = settings
    owners: dict[str, tuple[str, list]] = {}
    for name, settings in loaded.items():
        for key, folder, contents in _shared_folders(settings):
            owner, first = owners.setdefault(folder, (name, contents))
            if first != contents and owner == name:  # no two other settings of one recipe can name the same folder
                raise PipelineError(
                    f"recipe {name}: {key}: results/{folder} has the recipe's own rows (dataset.name); give the set "
                    "another name"
                )
            if first != contents:
                raise PipelineError(
                    f"recipes {owner} and {name}: {key}: both write results/{folder}, with different settings; "
                    "give one of them another name"
                )
    return loaded


def _shared_folders(settings: Mapping) -> Iterator[tuple[str, str, list]]:
    """Yields (key of its name, folder below results/, settings of its contents) of what several recipes may share."""
    dataset, model = settings["dataset"], settings["model"]
    yield "dataset.name", f"data/{dataset['name']}", [dataset]
    # A miniature is pretrained on its data set, so the same model on other data is another model.
    yield "model.name", f"models/{model['name']}", [model, dataset] if model["source"] == "pretrained" else [model]
    for chosen in settings["evaluation"]["transfer"]:
        yield "evaluation.transfer", f"data/{chosen['name']}", [chosen]
