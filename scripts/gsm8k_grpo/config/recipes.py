"""Effective settings: config.yaml, a recipe over it, the command line over both; checked before any job starts."""

from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import RESERVED_NAMES, ROOT
from gsm8k_grpo.config.conflicts import check_settings
from gsm8k_grpo.config.merging import merge, read_yaml
from gsm8k_grpo.config.miniature import miniature_overlay
from gsm8k_grpo.config.schema import check_types


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


def effective_settings(recipe: str, overrides: Mapping, root: Path = ROOT) -> dict:
    """One recipe's effective settings, validated.

    Args:
      recipe: name of a file in recipes/.
      overrides: what the command line sets (`--config`, `--configfile`).
      root: the project's folder.

    Raises:
      PipelineError: one sentence that names the recipe and the key.
    """
    if recipe in RESERVED_NAMES:
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
        small = miniature_overlay(recipe, merged, read_yaml(root / "recipes" / "tiny.yaml"))
        merged, where = merge(merge(merge(below, small), below["at_miniature_size"]), overrides), f"{where} (miniature)"
    check_settings(merged, where, root)
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


def runs_by_recipe(selected: str | list[str], loaded: Mapping[str, Mapping]) -> dict[str, list[str]]:
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
        chosen = effective_settings(recipe, overrides, root)
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
