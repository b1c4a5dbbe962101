"""The report page: artifacts in, one self-contained HTML file out. Nothing is measured here, only shown."""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jinja2

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.config.recipes import recipe_names, run_names
from gsm8k_grpo.evaluation.metric_names import BESIDE, RATES
from gsm8k_grpo.report import artifact_schema, completion_browser, numbers, sentences, training_panels
from gsm8k_grpo.report.caveats import list_caveats
from gsm8k_grpo.report.charts import accuracy_curve, cost_points
from gsm8k_grpo.report.run_summary import paired_completions, summarise_run
from gsm8k_grpo.rewards.answers import Tags

TEMPLATES = Path(__file__).parent / "templates"
LARGEST_PAGE_BYTES = 5_000_000
# What all but the packed data takes, with room to spare; the rest is shared by the runs.
FRAME_BYTES, FRAME_BYTES_OF_A_RUN = 150_000, 60_000
FEWEST_STEPS = 200  # that a chart of training draws, however large the page
SCRIPTS = ("vendor/uPlot.min.js", "vendor/sortable.min.js", "report.js")
STYLES = ("vendor/uPlot.min.css", "report.css")


def render_page(results: Path, recipes: list[str], seeded: list[str], defaults: Mapping | None = None) -> str:
    """The page over some recipes, or their runs, from the artifacts below `results`.

    Args:
      results: the folder.
      recipes: folders below it: recipes, or their runs with one seed each.
      seeded: the recipes with several seeds.
      defaults: contents of config.yaml; None reads the project's.
    """
    defaults = read_yaml(ROOT / "config.yaml") if defaults is None else defaults
    stories = [summarise_run(results, recipe, defaults) for recipe in recipes]
    blobs: dict[str, str] = {}
    frame = FRAME_BYTES + FRAME_BYTES_OF_A_RUN * len(stories)
    for told in stories:
        _add_training(told, blobs, (LARGEST_PAGE_BYTES - frame) // 2 // len(stories))
    spent = frame + sum(map(len, blobs.values()))
    for index, told in enumerate(stories):
        budget = (LARGEST_PAGE_BYTES - spent) // (len(stories) - index)
        spent += _add_completions(results, told, blobs, budget)
    for told in stories:
        _add_facts(told, stories)
    over = {name: _optional(results / name / "seeds.json", "seeds") for name in seeded}
    across = _optional(results / "comparison-of-recipes.json", "across") if len(stories) > 1 else None
    licence = f"/*\n{_template('vendor/uPlot.LICENSE.txt')}*/\n"  # goes with every copy
    script, style = ("\n".join(_template(name) for name in names) for names in (SCRIPTS, STYLES))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=next(
                (told["settings"]["report"]["title"] for told in stories if told["settings"]), "Showing its work"
            ),
            stories=stories,
            seeded=over,
            runs_of_seeds=[run for each in over.values() if each for run in each["runs"]],
            across=across,
            has_published=any(told["settings"] and told["settings"].get("published") for told in stories),
            rates=RATES,
            outcomes=completion_browser.OUTCOMES,
            page_data={"curves": {told["name"]: told["curve"] for told in stories}, "costs": cost_points(stories)},
            blobs=blobs,
            script=licence + script,
            script_hash=_hash(licence + script),
            style=style,
            style_hash=_hash(style),
        )
    )


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline script or style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _optional(path: Path, kind: str) -> dict | None:
    try:
        return artifact_schema.read(path, kind)
    except PipelineError:
        return None


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=_coded,
    )
    environment.filters.update(
        {
            each.__name__: each
            for each in (
                *(
                    numbers.percent,
                    numbers.tenth,
                    numbers.points,
                    numbers.interval_ends,
                    numbers.p_value,
                    numbers.decimals,
                ),
                *(numbers.count, numbers.duration, numbers.gibibytes, numbers.plural, numbers.published_rate),
                *(numbers.shorten_visible, sentences.verdict, sentences.seeds_verdict),
            )
        }
    )
    environment.filters["setting"] = _setting
    environment.globals.update(
        headline=sentences.headline,
        seeds_headline=sentences.seeds_headline,
        rates_beside=rates_beside,
        phases=phases,
        command=command,
        origin=_origin,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    return environment


def _coded(value: object) -> object:
    """What a template prints, from whatever recipe, warning or artifact: nothing in it turns the text around it."""
    return numbers.escape_invisible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _setting(value: object) -> str:
    """A setting as it is written in a recipe."""
    return json.dumps(value, ensure_ascii=False)


def _origin(facts: Mapping) -> str:
    """Where data or weights come from: all that is said of it but hashes, which stand beside."""
    return ", ".join(
        f"{name} {value}"
        for name, value in facts.items()
        if name != "warning" and value is not None and not isinstance(value, (dict, list))
    )


def rates_beside(extraction: str) -> list[str]:
    """The rates beside the headline; the recipe's own reading is `answer`, and not there a second time."""
    return [name for name in BESIDE if name != extraction]


def phases(training: Mapping) -> list[tuple[str, float, float]]:
    """Seconds of training by phase, each with its share; nothing where there are none."""
    seconds = training_panels.seconds_by_phase(training)
    return [(name, value, value / sum(seconds.values())) for name, value in seconds.items()]


def recipe_of(told: Mapping) -> str:
    """The recipe that a run is of."""
    chosen = told["settings"]
    for recipe in recipe_names(chosen["recipes"]):
        if told["name"] in run_names(recipe, chosen | {"seeds": chosen["seeds"] and [chosen["seed"]]}):
            return recipe
    return told["name"]


def command(told: Mapping) -> str:
    """What makes a run again, from a clone of the project."""
    chosen, made = told["settings"], (told["training"] or told["base"] or {}).get("provenance", {})
    seeds = f" 'seeds=[{chosen['seed']}]'" if chosen["seeds"] else ""
    lines = [f"git checkout {made['commit']}"] if made.get("commit") else []
    if made.get("dirty"):
        lines.append("# (tracked files differed from that commit)")
    lines += [
        "# settings.yaml: all effective settings, as below",
        f"snakemake --cores 1 results/report.html --configfile settings.yaml --config recipes={recipe_of(told)}{seeds}",
    ]
    return "\n".join(lines)


def _add_training(told: dict, blobs: dict[str, str], budget: int) -> None:
    """The figures of training, packed: those of all steps, or of one in so many (`every`) where they take too much."""
    told["every"] = 1
    if told["settings"] is None or not told["panels"]:
        return
    metrics, starts = told["metrics"], (told["training"] or {}).get("starts", [])
    while True:
        drawn = metrics[:: -told["every"]][::-1]  # the last step is always there
        text = completion_browser.pack(
            {
                "panels": told["panels"],
                "columns": training_panels.columns(drawn, told["panels"]),
                "starts": sorted({step for step in starts[1:]}),
            }
        )
        if len(text) <= budget or len(drawn) <= 2 * FEWEST_STEPS:
            break
        most = len(metrics) // FEWEST_STEPS
        told["every"] = min(most, max(told["every"] + 1, round(told["every"] * len(text) / max(1, budget))))
    blobs[f"data-{told['name']}-training"] = text


def _add_completions(results: Path, told: dict, blobs: dict[str, str], budget: int) -> int:
    """The paired completions, packed; returns how long they are."""
    pairs, make_row = paired_completions(results, told)
    told |= {"paired": len(pairs), "shown": 0}
    if not pairs:
        return 0
    chosen, identity = told["settings"], f"data-{told['name']}-completions"
    how = {
        # In their order, not in that of the keys, and as they read in completions.
        "tags": [numbers.escape_invisible(tag) for tag in Tags(**chosen["prompt"]["tags"]).all()],
        "extraction": chosen["evaluation"]["extraction"],
        "rewards": [numbers.escape_invisible(name) for name in told["reward_names"]],
        "sides": [told[name]["checkpoint"] for name in pairs[0]["sides"]],
    }
    shown, text = completion_browser.pack_pairs(pairs, chosen["report"]["examples"], budget, how, make_row)
    told |= {"shown": len(shown), "trained": list(pairs[0]["outcomes"])}
    blobs[identity] = text
    return len(text)


def _add_facts(told: dict, stories: list[dict]) -> None:
    """What follows from a story's parts."""
    told["doubts"] = list_caveats(told)
    told["curve"] = None
    if told["settings"] is None:
        return
    told["curve"] = accuracy_curve(told)
    told["cost"] = training_panels.training_cost(told["training"], told["metrics"])
    told["recipe"] = recipe_of(told)
    told["first_of_recipe"] = told is next(
        each for each in stories if each["settings"] and recipe_of(each) == told["recipe"]
    )
