"""All that the page says about one recipe, read from its artifacts. What is not there is said, never an error."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import merge, read_yaml
from gsm8k_grpo.evaluation.artifacts import REPORTED_CHECKPOINTS, first_completions
from gsm8k_grpo.grpo.checkpoint_names import checkpoint_names
from gsm8k_grpo.report import artifact_schema, completion_browser, training_panels

BLOCKS = ("recipes", "seed", "seeds", "dataset", "model", "prompt", "training", "evaluation", "report")
# Parts of a story that are None, or empty, where nothing is there.
ARTIFACTS = (
    "settings",
    *REPORTED_CHECKPOINTS,
    "chosen",
    "compared",
    "format_check",
    "training",
    "last_steps",
    "metrics",
)
ARTIFACTS += ("unpaired", "first_reward", "checkpoints", "prompts", "dataset", "model", "model_provenance", "preflight")
LISTS = ("selection", "panels", "changed", "unknown", "stages", "reward_names")


class ArtifactReader:
    """Reads artifacts below a folder and keeps a sentence about each that cannot be read.

    Attributes:
      missing: the sentences.
    """

    def __init__(self, results: Path):
        self._results = results
        self.missing: list[str] = []

    def read(self, path: Path, how: Callable[[Path], Any]) -> Any:
        """What an artifact holds, or None."""
        if not path.is_file():
            self.missing.append(f"{self._named(path)} is not there yet")
            return None
        try:
            return how(path)
        except PipelineError as error:
            self.missing.append(str(error).replace(f"{self._results}{os.sep}", ""))
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, yaml.YAMLError):
            self.missing.append(f"{self._named(path)} holds nothing that can be read")
        return None

    def _named(self, path: Path) -> str:
        return path.relative_to(self._results).as_posix()


def summarise_run(results: Path, recipe: str, defaults: Mapping) -> dict:
    """One recipe, or one of its runs.

    Args:
      results: the folder of all artifacts.
      recipe: the folder below it.
      defaults: contents of config.yaml.

    Returns:
      what the template names; any part is None (or empty) where its artifact is not there, and `missing` says so.
    """
    folder, reader = results / recipe, ArtifactReader(results)
    chosen = reader.read(folder / "settings.yaml", functools.partial(_settings, defaults=defaults))
    if chosen is None:
        return {**dict.fromkeys(ARTIFACTS), **dict.fromkeys(LISTS, ()), "name": recipe, "missing": reader.missing}
    unknown, chosen = missing_keys(defaults, chosen), merge(defaults, chosen)
    evaluation, preflight = artifact_schema.reader("evaluation"), folder / "preflight.json"
    on_dev = folder / ("evaluations" if chosen["evaluation"]["split"] == "dev" else "evaluations-dev")
    data, model = results / "data" / chosen["dataset"]["name"], results / "models" / chosen["model"]["name"]
    names = checkpoint_names(chosen["training"])
    metrics = reader.read(folder / "training" / "metrics.csv", _metrics)
    if metrics is not None and metrics.empty:
        reader.missing.append(f"{recipe}/training/metrics.csv has no step yet")
        metrics = None
    measured = {
        name: reader.read(folder / "evaluations" / name / "metrics.json", evaluation) for name in REPORTED_CHECKPOINTS
    }
    found = {
        "name": recipe,
        "settings": chosen,
        "settings_text": (folder / "settings.yaml").read_text(encoding="utf-8"),
        "changed": differences(defaults, chosen),
        "unknown": unknown,
        **measured,
        "selection": [each for name in names if (each := reader.read(on_dev / name / "metrics.json", evaluation))],
        "chosen": reader.read(folder / "best.json", artifact_schema.reader("best")),
        "compared": reader.read(folder / "comparison.json", artifact_schema.reader("comparison")),
        "format_check": reader.read(folder / "format_check.json", artifact_schema.reader("format_check")),
        "training": reader.read(folder / "training" / "summary.json", artifact_schema.reader("training")),
        "last_steps": None if metrics is None else last_steps(metrics),
        "first_reward": None if metrics is None or "reward" not in metrics else float(_tenth(metrics.reward).mean()),
        "panels": [] if metrics is None else training_panels.panels(metrics),
        "metrics": metrics,
        "checkpoints": reader.read(folder / "training" / "checkpoints.json", artifact_schema.reader("checkpoints")),
        "prompts": reader.read(folder / "prompts" / "summary.json", artifact_schema.reader("prompts")),
        "dataset": reader.read(data / "dataset.json", artifact_schema.reader("dataset")),
        "model": reader.read(model / "model.json", artifact_schema.reader("model")),
        "model_provenance": reader.read(model / "provenance.json", artifact_schema.reader("provenance")),
        # Made only when asked for: that it is not there is no fault.
        "preflight": reader.read(preflight, artifact_schema.reader("preflight")) if preflight.is_file() else None,
        "missing": reader.missing,
        "reward_names": [],
        "unpaired": None,
    }
    if found["training"]:
        found["training"].setdefault("starts", [])  # summaries of before they were counted
    return found | {"stages": stages(found)}


def paired_completions(results: Path, told: Mapping) -> tuple[list[dict], Callable[[dict], dict]]:
    """The paired completions of a recipe, and what makes a pair a row of the page; no pairs where they are not there.

    Args:
      results: the folder of all artifacts.
      told: of `story`; what cannot be read is added to its `missing`.
    """
    chosen = told["settings"]
    if chosen is None or not (told["base"] and told["final"]):
        return [], dict
    folder, reader, split = results / told["name"], ArtifactReader(results), told["base"]["split"]
    other_best = told["best"] and told["best"]["checkpoint"] != told["final"]["checkpoint"]
    graded = {
        name: reader.read(folder / "evaluations" / name / "completions.jsonl", _completions)
        for name in ("base", "final", *(["best"] if other_best else []))
    }
    asked = reader.read(folder / "prompts" / f"{split}.jsonl", _rows("id", "prompt"))
    rewarded = reader.read(folder / "rewards.jsonl", _rows("id", "base", "final"))
    source = "test" if split == "test" else "train"
    rows = reader.read(results / "data" / chosen["dataset"]["name"] / f"{source}.jsonl", _rows("id", "question"))
    told["missing"].extend(reader.missing)
    graded = {name: rows for name, rows in graded.items() if rows}
    if not {"base", "final"} <= graded.keys():
        return [], dict
    prompts = {row["id"]: row["prompt"] for row in asked or ()}
    questions = {row["id"]: row["question"] for row in rows or ()}
    rewards = {row["id"]: row for row in rewarded or ()}
    pairs = completion_browser.pair_rows(graded, f"{chosen['evaluation']['extraction']}_correct")

    def make_row(pair: dict) -> dict:
        identity = pair["id"]
        question = questions.get(identity, "")
        return completion_browser.page_row(pair, prompts.get(identity, question), question, rewards.get(identity, {}))

    told["unpaired"] = max(map(len, graded.values())) - len(pairs)
    told["reward_names"] = list(rewarded[0]["base"]) if rewarded else []
    return pairs, make_row


def _rows(*keys: str) -> Callable[[Path], list[dict]]:
    """What reads rows that have these keys."""
    return functools.partial(files.read_jsonl, keys=keys)


def _completions(path: Path) -> list[dict]:
    return first_completions(path, *completion_browser.KEYS)


def _settings(path: Path, defaults: Mapping) -> dict:
    chosen = read_yaml(path)
    lacking = [block for block in BLOCKS if block not in chosen]
    if lacking:
        raise PipelineError(f"{path}: lacks {', '.join(lacking)}; expected what the stage settings writes")
    artifact_schema.checked(merge(defaults, chosen), path, "settings")
    return chosen


def _metrics(path: Path) -> pd.DataFrame:
    metrics = pd.read_csv(path)
    if "step" not in metrics:
        raise PipelineError(f"{path}: no column 'step'; expected what the stage train writes")
    for name in metrics:
        if not pd.api.types.is_numeric_dtype(metrics[name]):
            raise PipelineError(f"{path}: column {name!r} holds what is no number; make it again")
    # What a restart did again counts once, as it was done last.
    return metrics[metrics["step"].notna()].drop_duplicates("step", keep="last").sort_values("step")


def last_steps(metrics: pd.DataFrame) -> dict[str, float]:
    """Means over the last tenth of training, of what the page quotes in words."""
    tail = _tenth(metrics[::-1])
    names = ("reward", "kl", "groups_without_signal", "truncated_rate")
    return {name: float(tail[name].mean()) for name in names if name in tail and tail[name].notna().any()}


def _tenth(metrics: pd.DataFrame | pd.Series) -> pd.DataFrame | pd.Series:
    """The first tenth of the steps, one at least."""
    return metrics.head(max(1, len(metrics) // 10))


def differences(defaults: Mapping, chosen: Mapping, key: str = "") -> list[tuple[str, Any, Any]]:
    """Each key whose value is not the default: its name, the default, the value. What was published is none of them."""
    found = []
    for name in chosen:
        here, path = chosen[name], f"{key}.{name}" if key else name
        default = defaults.get(name)
        if path in ("recipes", "published", "at_miniature_size"):
            continue
        if isinstance(here, Mapping) and isinstance(default, Mapping):
            found += differences(default, here, path)
        elif here != default:
            found.append((path, default, here))
    return found


def missing_keys(defaults: Mapping, chosen: Mapping, key: str = "") -> list[str]:
    """Each key that has a default and is not in the settings: they are of another version of the pipeline."""
    found = []
    for name, default in defaults.items():
        path = f"{key}.{name}" if key else name
        if name not in chosen:
            found.append(path)
        elif isinstance(default, Mapping) and isinstance(chosen[name], Mapping):
            found += missing_keys(default, chosen[name], path)
    return found


def stages(told: Mapping) -> list[dict]:
    """Each stage that says how it was made: `name`, `provenance`, and `starts` (processes that it took) or None."""
    found = []

    def add(name: str, artifact: Mapping | None, starts: int | None = None) -> None:
        made = artifact and artifact.get("provenance", artifact if "commit" in artifact else None)
        if made:
            found.append({"name": name, "provenance": made, "starts": starts})

    add("download", told["dataset"])
    add("base_model", told["model_provenance"])
    add("prompts", told["prompts"])
    add("format_check", told["format_check"])
    add("preflight", told["preflight"])
    training = told["training"]
    add("train", training, len(training["starts"]) if training and training["starts"] else None)
    for each in told["selection"]:
        add(f"evaluate {each['checkpoint']} on {each['split']}", each, each.get("starts"))
    for name in REPORTED_CHECKPOINTS:
        each = told[name]
        if each and each["split"] != (told["selection"][0]["split"] if told["selection"] else None):
            add(f"evaluate {name} on {each['split']}", each, each.get("starts"))
    add("compare", told["compared"])
    return found
