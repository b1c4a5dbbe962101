"""The report page: artifacts in, one self-contained HTML file out. Nothing is measured here, only shown."""

import base64
import hashlib
import re
from pathlib import Path

import jinja2
import pandas as pd
import yaml

from gsm8k_grpo import checkpoints, files

TEMPLATES = Path(__file__).parent / "templates"
# What no page can show as text: control characters, and marks that turn the direction of all that follows.
INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST_SHOWN_CHARACTERS = 4000
RATES = {
    "answer_accuracy": "answer (the recipe's own reading)",
    "strict_accuracy": "strict (answer tags or ####)",
    "flexible_accuracy": "flexible (last number, format ignored)",
    "cascade_accuracy": "cascade (\\boxed{}, else answer tags, else last number)",
    "partial_accuracy": "within ±10 %",
    "format_accuracy": "format",
    "truncated_rate": "cut at the token limit",
    # Only of several samples a prompt.
    "pass_at_k": "pass@k: one of the samples is right",
    "maj_at_k": "maj@k: most of the samples agree on the right one",
}


def percent(value: float) -> str:
    """A rate as per cent with one decimal."""
    return f"{100 * value:.1f} %"


def tenth(value: float | None) -> str:
    """The end of an interval as per cent without the sign; nothing where there is none."""
    return "" if value is None else f"{100 * value:.1f}".replace("-", "−")


def points(value: float) -> str:
    """A difference of rates in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def p_value(value: float) -> str:
    """A p-value as papers print it."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.4f}" if value < 0.1 else f"p = {value:.2f}"


def visible(text: str) -> str:
    """Model output as text that breaks nothing: control and direction marks as their codes, megabytes cut."""
    shown = INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text[:LONGEST_SHOWN_CHARACTERS])
    left = len(text) - LONGEST_SHOWN_CHARACTERS
    return f"{shown} … and {left:,} characters more" if left > 0 else shown


def verdict(compared: dict) -> str:
    """What a paired comparison of answers says, in words that follow the numbers."""
    if compared["mcnemar_p"] >= 0.05:
        return "no significant change"
    return "better" if compared["difference"]["value"] > 0 else "worse"


def resolution(compared: dict) -> str:
    """What a comparison could have shown, where it shows no significant change: a sentence, else nothing."""
    if compared["mcnemar_p"] < 0.05:
        return ""
    if compared["smallest_difference"] is None:
        return f"{compared['n']} rows are too few to show any change."
    smallest = f"{100 * compared['smallest_difference']:.1f}"
    return f"{compared['n']} rows would show a change of ± {smallest} points or more in 4 of 5 tries."


def first_completions(compared: dict, samples: int) -> str:
    """What a paired comparison is of, where prompts have several completions: a sentence, else nothing."""
    if samples == 1:
        return ""
    before, after = ((compared["both"] + compared[key]) / compared["n"] for key in ("broken", "fixed"))
    return (
        f"The comparison is of the first of the {samples} completions of each prompt "
        f"({percent(before)} → {percent(after)}); the rates are over all, with intervals over prompts."
    )


def recipe_story(results: Path, recipe: str) -> dict:
    """All that the page says about one recipe, read from its artifacts."""
    folder = results / recipe
    settings = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
    measured = {
        name: files.read_json(folder / "evaluations" / name / "metrics.json") for name in ("base", "best", "final")
    }
    on_dev = folder / ("evaluations" if settings["evaluation"]["split"] == "dev" else "evaluations-dev")
    selection = [
        files.read_json(on_dev / name / "metrics.json") for name in checkpoints.checkpoint_names(settings["training"])
    ]
    completions = {
        name: [
            row for row in files.read_jsonl(folder / "evaluations" / name / "completions.jsonl") if row["sample"] == 0
        ]
        for name in ("base", "final")
    }
    prompts = {
        row["id"]: row["prompt"] for row in files.read_jsonl(folder / "prompts" / f"{measured['base']['split']}.jsonl")
    }
    return {
        "name": recipe,
        "settings": settings,
        "settings_text": (folder / "settings.yaml").read_text(encoding="utf-8"),
        **measured,
        "selection": selection,
        "compared": files.read_json(folder / "comparison.json"),
        "format_check": files.read_json(folder / "format_check.json"),
        "training": files.read_json(folder / "training" / "summary.json"),
        "last_steps": last_steps(folder / "training" / "metrics.csv"),
        "prompts": files.read_json(folder / "prompts" / "summary.json"),
        "dataset": files.read_json(results / "data" / settings["dataset"]["name"] / "dataset.json"),
        "model": files.read_json(results / "models" / settings["model"]["name"] / "model.json"),
        "model_provenance": files.read_json(results / "models" / settings["model"]["name"] / "provenance.json"),
        "examples": examples(
            completions, prompts, settings["report"]["examples"], f"{settings['evaluation']['extraction']}_correct"
        ),
        "plots": {name: _inline(folder / "plots" / f"{name}.svg") for name in ("accuracy", "training")},
    }


def last_steps(metrics_csv: Path) -> dict[str, float]:
    """Means over the last tenth of training, of what the page quotes in words."""
    metrics = pd.read_csv(metrics_csv)
    tail = metrics.tail(max(1, len(metrics) // 10))
    return {name: float(tail[name].mean()) for name in ("reward", "kl", "groups_without_signal", "truncated_rate")}


def examples(completions: dict[str, list[dict]], prompts: dict[str, str], count: int, judged: str) -> list[dict]:
    """Paired completions, in the order fixed, broken, wrong both times, right both times.

    Each outcome gets a fair share of `count`; what one does not use goes to the first that can.
    """
    outcomes: dict[str, list[dict]] = {"fixed": [], "broken": [], "wrong both times": [], "right both times": []}
    for base, final in zip(completions["base"], completions["final"], strict=True):
        before, after = base[judged], final[judged]
        outcome = (
            "right both times" if before and after else "broken" if before else "fixed" if after else "wrong both times"
        )
        outcomes[outcome].append({"outcome": outcome, "prompt": prompts[base["id"]], "base": base, "final": final})
    share = count // len(outcomes)
    shown = {outcome: min(share, len(pairs)) for outcome, pairs in outcomes.items()}
    for outcome, pairs in outcomes.items():
        shown[outcome] = min(len(pairs), shown[outcome] + count - sum(shown.values()))
    return [pair for outcome, pairs in outcomes.items() for pair in pairs[: shown[outcome]]]


def _inline(svg: Path) -> str:
    """An SVG as a data address, so that the page stands alone and the picture's ids and fonts stay its own."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def seeds_verdict(difference: dict) -> str:
    """What the differences of several runs say, in words that follow the numbers: is 0 in their interval?

    Runs that agree to the last row have no spread, and so no interval that could leave 0 out.
    """
    if not difference["sd"] or difference["low"] <= 0 <= difference["high"]:
        return "no significant change"
    return "better" if difference["value"] > 0 else "worse"


def render(results: Path, recipes: list[str], seeded: list[str]) -> str:
    """The page over some recipes, or their runs, from the artifacts below `results`.

    Args:
      results: the folder.
      recipes: folders below it: recipes, or their runs with one seed each.
      seeded: the recipes with several seeds.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters.update(
        percent=percent,
        tenth=tenth,
        points=points,
        p_value=p_value,
        visible=visible,
        verdict=verdict,
        resolution=resolution,
        first_completions=first_completions,
        seeds_verdict=seeds_verdict,
    )
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        stories=[recipe_story(results, recipe) for recipe in recipes],
        seeded={name: files.read_json(results / name / "seeds.json") for name in seeded},
        rates=RATES,
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )
