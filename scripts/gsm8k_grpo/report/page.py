"""The report page: one self-contained HTML file from artifacts. It shows numbers and computes none."""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jinja2

from gsm8k_grpo.common import layout
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.config.merging import WITHOUT_RESULT, read_yaml
from gsm8k_grpo.config.recipes import recipe_names, run_name
from gsm8k_grpo.evaluation.comparison import verdict
from gsm8k_grpo.report import artifact_schema, completion_browser, numbers, sentences, training_figures
from gsm8k_grpo.report.caveats import across_machines, list_caveats, machine
from gsm8k_grpo.report.charts import accuracy_curve, cost_points, difference_reach
from gsm8k_grpo.report.metric_catalogue import RATES, headline_rates
from gsm8k_grpo.report.run_summary import paired_completions, summarise_run
from gsm8k_grpo.report.transfer_sentence import transfer_sentence
from gsm8k_grpo.rewards.answers import READINGS, Tags
from gsm8k_grpo.rewards.controls import CONTROLS

TEMPLATES = Path(__file__).parent / "templates"
LARGEST_PAGE_BYTES = 5_000_000
# Room for everything but the packed data. The runs share the rest.
FRAME_BYTES, FRAME_BYTES_OF_A_RUN = 150_000, 60_000
FEWEST_STEPS = 200  # that a chart of training draws, however large the page
VENDORED_SCRIPTS = ("vendor/uPlot.min.js", "vendor/sortable.min.js")
OWN_SCRIPTS = ("shared.js", "chart_drawing.js", "charts.js", "completions.js", "page.js")
STYLES = ("vendor/uPlot.min.css", "report.css")
FILTERS = (
    *(numbers.percent, numbers.tenth, numbers.points, numbers.interval_ends, numbers.p_value, numbers.decimals),
    *(numbers.count, numbers.duration, size_text, numbers.plural, numbers.published_rate),
    *(numbers.shorten_visible, verdict, sentences.seeds_verdict, sentences.published_change, machine),
)


def render_page(results: Path, names: list[str], seeded: list[str]) -> str:
    """Renders the page.

    Args:
      results: the folder of all artifacts.
      names: recipes, or their runs with one seed each; folders below `results`.
      seeded: the recipes with several seeds.
    """
    defaults = read_yaml(layout.ROOT / "config.yaml") | WITHOUT_RESULT
    runs = [summarise_run(results, name, defaults) for name in names]
    blobs = _pack_data(results, runs)
    across = _read_optional(results / "comparison-of-recipes.json", "across") if len(runs) > 1 else None
    for run in runs:
        _add_derived(run, runs)
    for run in runs:
        run["controls"] = controls_of(run, runs, across)
    seeds = {name: _read_optional(layout.run_folder(results, name) / "seeds.json", "seeds") for name in seeded}
    licence = f"/*\n{_template('vendor/uPlot.LICENSE.txt')}*/\n"  # every copy of uPlot must carry it
    own = "\n".join(map(_template, OWN_SCRIPTS))
    script = licence + "\n".join(map(_template, VENDORED_SCRIPTS)) + f'\n(() => {{\n"use strict";\n{own}}})();\n'
    style = "\n".join(map(_template, STYLES))
    titles = (run["settings"]["report"]["title"] for run in runs if run["settings"])
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=next(titles, "Showing its work"),
            runs=runs,
            seeded=seeds,
            # Their cards stand in the runs' own sections: the result has one of all seeds, and a table of controls.
            cards_below={
                *(run for each in seeds.values() if each for run in each["runs"]),
                *(each["run"]["name"] for run in runs for each in run["controls"]),
            },
            across=across,
            has_published=any(run["settings"] and run["settings"].get("published") for run in runs),
            rates=RATES,
            controls_about=CONTROLS,
            outcomes=completion_browser.OUTCOME_NAMES,
            page_data={
                "curves": {run["name"]: run["curve"] for run in runs},
                "costs": cost_points(runs),
                "outcomes": completion_browser.OUTCOME_NAMES,
                "readings": READINGS,
            },
            blobs=blobs,
            script=script,
            script_hash=_hash(script),
            style=style,
            style_hash=_hash(style),
        )
    )


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash by which a Content-Security-Policy names an inline script or style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read_optional(path: Path, kind: str) -> dict | None:
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
        finalize=_escape_printed,
    )
    environment.filters |= {each.__name__: each for each in FILTERS} | {
        "setting": functools.partial(json.dumps, ensure_ascii=False)  # as a recipe writes it
    }
    environment.globals.update(
        headline=sentences.headline,
        subject=sentences.subject,
        seeds_headline=sentences.seeds_headline,
        across_machines=across_machines,
        controls_sentence=sentences.controls_sentence,
        headline_rates=headline_rates,
        phase_shares=phase_shares,
        transfer_sentence=transfer_sentence,
        difference_reach=difference_reach,
        command=command,
        origin=_origin,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    return environment


def _escape_printed(value: object) -> object:
    """Whatever a template prints: invisible characters of foreign text must not change the text around it."""
    return numbers.escape_invisible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _origin(origin: Mapping) -> str:
    """The origin of data or weights in a line. Hashes and warnings stand elsewhere on the page."""
    return ", ".join(
        f"{name} {value}"
        for name, value in origin.items()
        if name != "warning" and value is not None and not isinstance(value, (dict, list))
    )


def phase_shares(training: Mapping) -> list[tuple[str, float, float]]:
    """Each phase of training with its seconds and its share of all."""
    seconds = training_figures.seconds_by_phase(training)
    return [(name, value, value / sum(seconds.values())) for name, value in seconds.items()]


def recipe_of(run: Mapping) -> str:
    """The recipe that a run belongs to."""
    settings = run["settings"]
    for recipe in recipe_names(settings["recipes"]):
        if run["name"] == run_name(recipe, settings):
            return recipe
    return run["name"]


def controls_of(run: Mapping, runs: list[dict], across: Mapping | None) -> list[dict]:
    """The controls of a run among all runs: those of the same recipe and seed.

    Args:
      run: one of `runs`.
      runs: summaries.
      across: comparison-of-recipes.json, or None.

    Returns:
      for each control `name`, `about` (what it rewards by), `run` (its summary) and `against`: the paired test of the
      control against the run, or None without one. A control has none itself.
    """

    def control(each: Mapping) -> str | None:
        return each["settings"] and each["settings"]["training"]["control"]

    if not run["settings"] or control(run):
        return []
    tests = {tuple(pair["recipes"]): pair for pair in across["pairs"]} if across else {}
    return [
        {
            "name": control(each),
            "about": CONTROLS[control(each)],
            "run": each,
            "against": tests.get((run["name"], each["name"])),
        }
        for each in runs
        if control(each) and (each["recipe"], each["settings"]["seed"]) == (run["recipe"], run["settings"]["seed"])
    ]


def command(run: Mapping) -> str:
    """The commands that make a run again in a clone of the project."""
    settings, provenance = run["settings"], (run["training"] or run["base"] or {}).get("provenance", {})
    seeds = f" 'seeds=[{settings['seed']}]'" if settings["seeds"] else ""
    lines = [f"git checkout {provenance['commit']}"] if provenance.get("commit") else []
    if provenance.get("dirty"):
        lines.append("# (tracked files differed from that commit)")
    lines += [
        "# settings.yaml: all effective settings, as below",
        f"snakemake --cores 1 results/report.html --configfile settings.yaml --config recipes={recipe_of(run)}{seeds}",
    ]
    return "\n".join(lines)


def _pack_data(results: Path, runs: list[dict]) -> dict[str, str]:
    """The packed figures and completions of all runs, by the id of their element; together they fit the page."""
    blobs: dict[str, str] = {}
    frame = FRAME_BYTES + FRAME_BYTES_OF_A_RUN * len(runs)
    for run in runs:
        _pack_training(run, blobs, (LARGEST_PAGE_BYTES - frame) // 2 // len(runs))
    used = frame + sum(map(len, blobs.values()))
    for index, run in enumerate(runs):
        budget = (LARGEST_PAGE_BYTES - used) // (len(runs) - index)
        used += _pack_completions(results, run, blobs, budget)
    return blobs


def _pack_training(run: dict, blobs: dict[str, str], budget_bytes: int) -> None:
    """Packs the figures of all steps, or of every `step_stride`-th one if all are too large."""
    run["step_stride"] = 1
    if not run.get("panels"):
        return
    metrics, starts = run["metrics"], (run["training"] or {}).get("starts", [])
    while True:
        drawn = metrics[:: -run["step_stride"]][::-1]  # backwards, so that the last step is always drawn
        text = completion_browser.pack(
            {
                "panels": run["panels"],
                "columns": training_figures.panel_data(drawn, run["panels"]),
                "starts": sorted(set(starts[1:])),
            }
        )
        if len(text) <= budget_bytes or len(drawn) <= 2 * FEWEST_STEPS:
            break
        largest, wanted = len(metrics) // FEWEST_STEPS, run["step_stride"] * len(text) / max(1, budget_bytes)
        run["step_stride"] = min(largest, max(run["step_stride"] + 1, round(wanted)))
    blobs[f"data-{run['name']}-training"] = text


def _pack_completions(results: Path, run: dict, blobs: dict[str, str], budget_bytes: int) -> int:
    """Packs the paired completions; returns the length of the text."""
    pairs, make_row = paired_completions(results, run)
    run |= {"paired": len(pairs), "shown": 0, "example": None}
    if not pairs:
        return 0
    settings = run["settings"]
    browser_settings = {
        # In the order of the tags in a completion, and as they read there.
        "tags": [numbers.escape_invisible(tag) for tag in Tags(**settings["prompt"]["tags"]).all()],
        "extraction": settings["evaluation"]["extraction"],
        "rewards": [numbers.escape_invisible(name) for name in run["reward_names"]],
        "sides": [run[name]["checkpoint"] for name in pairs[0]["sides"]],
    }
    shown, text = completion_browser.pack_pairs(
        pairs, settings["report"]["examples"], budget_bytes, browser_settings, make_row
    )
    run |= {"shown": len(shown), "trained": list(pairs[0]["outcomes"])}
    run["example"] = completion_browser.fixed_example(pairs, make_row, browser_settings["tags"])
    blobs[f"data-{run['name']}-completions"] = text
    return len(text)


def _add_derived(run: dict, runs: list[dict]) -> None:
    """Adds the parts of a summary that follow from other parts."""
    run |= {"caveats": list_caveats(run), "curve": None}
    if run["settings"] is None:
        return
    cost, recipe = training_figures.training_cost(run["training"], run["metrics"]), recipe_of(run)
    run |= {"curve": accuracy_curve(run), "cost": cost, "recipe": recipe}
    run["first_of_recipe"] = run is next(each for each in runs if each["settings"] and recipe_of(each) == recipe)
