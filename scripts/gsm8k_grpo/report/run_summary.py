"""Everything the page says about one run, read from its artifacts. A missing artifact is listed, never an error."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import merge, read_yaml
from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.evaluation.artifact_reading import REPORTED_CHECKPOINTS, graded_completions
from gsm8k_grpo.evaluation.comparison import pair_rows
from gsm8k_grpo.grpo.kept_checkpoints import checkpoint_names
from gsm8k_grpo.report import artifact_schema, completion_browser, training_figures
from gsm8k_grpo.rewards.answers import Tags

BLOCKS = ("recipes", "seed", "seeds", "dataset", "model", "prompt", "training", "evaluation", "report")


class ArtifactReader:
    """Reads artifacts below a folder.

    Attributes:
      missing: a sentence about each artifact that is missing or cannot be read.
    """

    def __init__(self, results: Path):
        self._results = results
        self.missing: list[str] = []

    def read(self, path: Path, parse: Callable[[Path], Any]) -> Any:
        """The artifact as `parse` returns it, or None."""
        name = path.relative_to(self._results).as_posix()
        if not path.is_file():
            self.missing.append(f"{name} does not exist yet")
            return None
        try:
            return parse(path)
        except PipelineError as error:
            self.missing.append(str(error).replace(f"{self._results}{os.sep}", ""))
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, yaml.YAMLError):
            self.missing.append(f"{name} cannot be parsed")
        return None

    def read_checked(self, path: Path, kind: str) -> dict | None:
        """A JSON artifact that `artifact_schema` accepts, or None."""
        return self.read(path, functools.partial(artifact_schema.read, kind=kind))


def summarise_run(results: Path, name: str, defaults: Mapping) -> dict:
    """Summarises a recipe, or one of its runs.

    Args:
      results: the folder of all artifacts.
      name: of the recipe or run, a folder below it.
      defaults: contents of config.yaml.

    Returns:
      the parts that the templates name. A part is None (or empty) if its artifact is missing; `missing` then says so.
      Without settings there are few parts.
    """
    folder, reader = layout.run_folder(results, name), ArtifactReader(results)
    settings_file = layout.settings_file(results, name)
    written = reader.read(settings_file, functools.partial(_read_settings, defaults=defaults))
    if written is None:
        without = dict.fromkeys(("settings", "base", "final", "compared", "choice", "transfer"))
        return without | {"name": name, "missing": reader.missing}
    settings = merge(defaults, written)
    read, training = reader.read_checked, layout.training_folder(results, name)
    metrics = reader.read(training / "metrics.csv", _read_metrics)
    if metrics is not None and metrics.empty:
        reader.missing.append(f"{name}/training/metrics.csv has no step yet")
        metrics = None
    dataset = layout.dataset_folder(results, settings["dataset"]["name"])
    model = layout.model_folder(results, settings["model"]["name"])
    preflight = folder / "preflight.json"

    def evaluation(checkpoint: str, on_dev: bool = False) -> dict | None:
        return read(layout.evaluation_folder(results, name, checkpoint, on_dev) / "metrics.json", "evaluation")

    dev_apart = settings["evaluation"]["split"] != "dev"
    run = {
        "name": name,
        "settings": settings,
        "settings_text": settings_file.read_text(encoding="utf-8"),
        "changed": differences(defaults, settings),
        "published": published_rows(settings.get("published")),
        "unknown": missing_keys(defaults, written),
        **{checkpoint: evaluation(checkpoint) for checkpoint in REPORTED_CHECKPOINTS},
        "selection": [
            each for checkpoint in checkpoint_names(settings["training"]) if (each := evaluation(checkpoint, dev_apart))
        ],
        "choice": read(folder / "best.json", "best"),
        "compared": read(folder / "comparison.json", "comparison"),
        "transfer": read(folder / "transfer.json", "transfer") if settings["evaluation"]["transfer"] else None,
        "format_check": read(folder / "format_check.json", "format_check"),
        "reward_audit": read(folder / "reward_audit.json", "reward_audit"),
        "training": read(training / "summary.json", "training"),
        "last_steps": None if metrics is None else last_steps(metrics),
        "first_reward": None if metrics is None or "reward" not in metrics else float(_tenth(metrics.reward).mean()),
        "panels": [] if metrics is None else training_figures.list_panels(metrics),
        "metrics": metrics,
        "checkpoints": read(training / "checkpoints.json", "checkpoints"),
        "prompts": read(layout.prompts_file(results, name, "train").with_name("summary.json"), "prompts"),
        "dataset": read(dataset / "dataset.json", "dataset"),
        "model": read(model / "model.json", "model"),
        "model_provenance": read(model / "provenance.json", "provenance"),
        # The preflight runs on request only, so its absence is no gap.
        "preflight": read(preflight, "preflight") if preflight.is_file() else None,
        "missing": reader.missing,
        "reward_names": [],
        "unpaired": None,
    }
    if run["training"]:
        run["training"].setdefault("starts", [])  # older summaries do not count starts
    return run | {"stages": list_stages(run)}


def summarise_rates(results: Path, name: str, defaults: Mapping) -> dict:
    """The parts of `summarise_run` that the tables for a paper need; it reads no other artifact."""
    reader, folder = ArtifactReader(results), layout.run_folder(results, name)
    settings_file = layout.settings_file(results, name)
    settings = reader.read(settings_file, functools.partial(_read_settings, defaults=defaults))
    if settings is None:
        return dict.fromkeys(("settings", "compared", "dataset", *REPORTED_CHECKPOINTS)) | {"name": name}
    dataset = layout.dataset_folder(results, settings["dataset"]["name"]) / "dataset.json"
    metrics = {each: layout.evaluation_folder(results, name, each) / "metrics.json" for each in REPORTED_CHECKPOINTS}
    return {
        "name": name,
        "settings": merge(defaults, settings),
        "compared": reader.read_checked(folder / "comparison.json", "comparison"),
        "dataset": reader.read_checked(dataset, "dataset"),
        **{each: reader.read_checked(path, "evaluation") for each, path in metrics.items()},
    }


def published_rows(published: Mapping | None) -> list[dict]:
    """The rates that a recipe's origin published: `metric`, `base`, `trained`, `difference`.

    Each is what the recipe writes. Counts become a rate with its interval (`wilson_rate`), and counts before and after
    also a difference with its interval, as of independent rows: which rows were right is not published.
    """
    rows = []
    for written in published["values"] if published else []:
        row = dict(written)
        for key in ("base", "trained"):
            if isinstance(row[key], Mapping):
                row[key] = stats.wilson_rate(row[key]["correct"], row[key]["n"])
        if isinstance(row["base"], Mapping) and isinstance(row["trained"], Mapping):
            row["difference"] = stats.independent_difference(row["base"], row["trained"])
        rows.append(row)
    return rows


def paired_completions(results: Path, run: Mapping) -> tuple[list[dict], Callable[[dict], dict]]:
    """The paired completions of a run, and the function that makes a row of the page from a pair.

    Args:
      results: the folder of all artifacts.
      run: of `summarise_run`; gets `unpaired`, `reward_names` and more sentences in `missing`.
    """
    settings = run["settings"]
    if settings is None or not (run["base"] and run["final"]):
        return [], dict
    tags, extraction = Tags.of(settings["prompt"]), settings["evaluation"]["extraction"]
    name, reader, split = run["name"], ArtifactReader(results), run["base"]["split"]
    best_apart = run["best"] and run["best"]["checkpoint"] != run["final"]["checkpoint"]
    graded = {
        side: reader.read(
            layout.evaluation_folder(results, name, side) / "completions.jsonl",
            lambda path: graded_completions(path, tags, extraction, *completion_browser.KEYS),
        )
        for side in ("base", "final", *(["best"] if best_apart else []))
    }

    def read_rows(path: Path, *keys: str) -> list[dict]:
        return reader.read(path, functools.partial(files.read_jsonl, keys=keys)) or []

    prompt_rows = read_rows(layout.prompts_file(results, name, split), "id", "prompt")
    reward_rows = read_rows(layout.run_folder(results, name) / "rewards.jsonl", "id", "base", "final")
    question_rows = read_rows(layout.dataset_rows(results, settings["dataset"]["name"], split), "id", "question")
    run["missing"].extend(reader.missing)
    graded = {side: rows for side, rows in graded.items() if rows}
    if not {"base", "final"} <= graded.keys():
        return [], dict
    prompts = {row["id"]: row["prompt"] for row in prompt_rows}
    questions = {row["id"]: row["question"] for row in question_rows}
    rewards = {row["id"]: row for row in reward_rows}
    pairs = pair_rows(graded, f"{extraction}_correct")

    def make_row(pair: dict) -> dict:
        question = questions.get(pair["id"], "")
        prompt = prompts.get(pair["id"], question)
        return completion_browser.page_row(pair, prompt, question, rewards.get(pair["id"], {}))

    run["unpaired"] = max(map(len, graded.values())) - len(pairs)
    run["reward_names"] = list(reward_rows[0]["base"]) if reward_rows else []
    return pairs, make_row


def _read_settings(path: Path, defaults: Mapping) -> dict:
    settings = read_yaml(path)
    missing = [block for block in BLOCKS if block not in settings]
    if missing:
        raise PipelineError(f"{path}: has no block {', '.join(missing)}; write it again with the stage settings")
    artifact_schema.check(merge(defaults, settings), path, "settings")
    return settings


def _read_metrics(path: Path) -> pd.DataFrame:
    metrics = pd.read_csv(path)
    if "step" not in metrics:
        raise PipelineError(f"{path}: has no column 'step'; write it again with the stage train")
    for name in metrics:
        if not pd.api.types.is_numeric_dtype(metrics[name]):
            raise PipelineError(f"{path}: the column {name!r} holds text, expected numbers; make it again")
    # A restart can repeat steps; the last one counts.
    return metrics[metrics["step"].notna()].drop_duplicates("step", keep="last").sort_values("step")


def last_steps(metrics: pd.DataFrame) -> dict[str, float]:
    """Means over the last tenth of training, of the columns that the text quotes."""
    tail = _tenth(metrics[::-1])
    names = ("reward", "kl", "groups_without_signal", "truncated_rate")
    return {name: float(tail[name].mean()) for name in names if name in tail and tail[name].notna().any()}


def _tenth(metrics: pd.DataFrame | pd.Series) -> pd.DataFrame | pd.Series:
    """The first tenth of the steps, at least one."""
    return metrics.head(max(1, len(metrics) // 10))


def differences(defaults: Mapping, settings: Mapping, key: str = "") -> list[tuple[str, Any, Any]]:
    """The key, the default and the value of each setting that is not the default, published results apart."""
    found = []
    for name, value in settings.items():
        path, default = f"{key}.{name}" if key else name, defaults.get(name)
        if path in ("recipes", "published", "at_miniature_size"):
            continue
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            found += differences(default, value, path)
        elif value != default:
            found.append((path, default, value))
    return found


def missing_keys(defaults: Mapping, settings: Mapping, key: str = "") -> list[str]:
    """The keys that have a default but are not in the settings: another version of the pipeline wrote them."""
    found = []
    for name, default in defaults.items():
        path = f"{key}.{name}" if key else name
        if name not in settings:
            found.append(path)
        elif isinstance(default, Mapping) and isinstance(settings[name], Mapping):
            found += missing_keys(default, settings[name], path)
    return found


def list_stages(run: Mapping) -> list[dict]:
    """Each stage with provenance: `name`, `provenance`, and `starts` (its processes), None if not counted."""
    found = []

    def add(name: str, artifact: Mapping | None, starts: int | None = None) -> None:
        provenance = artifact and artifact.get("provenance", artifact if "commit" in artifact else None)
        if provenance:
            found.append({"name": name, "provenance": provenance, "starts": starts})

    add("download", run["dataset"])
    add("base_model", run["model_provenance"])
    for name in ("prompts", "format_check", "preflight"):
        add(name, run[name])
    training = run["training"]
    add("train", training, len(training["starts"]) if training and training["starts"] else None)
    for each in run["selection"]:
        add(f"evaluate {each['checkpoint']} on {each['split']}", each, each.get("starts"))
    for name in REPORTED_CHECKPOINTS:
        each = run[name]
        if each and each["split"] != (run["selection"][0]["split"] if run["selection"] else None):
            add(f"evaluate {name} on {each['split']}", each, each.get("starts"))
    add("compare", run["compared"])
    add("transfer", run["transfer"])
    return found
