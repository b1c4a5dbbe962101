"""The page in headless Chromium: made-up results, and what its tests click and read."""

import base64
import gzip
import json
import re
import shutil
from pathlib import Path

import pandas as pd

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.evaluation.artifact_reading import read_metrics
from gsm8k_grpo.evaluation.comparison import OUTCOMES
from gsm8k_grpo.evaluation.seeds import summarise_seeds
from gsm8k_grpo.report.page import render_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
ROWS, STEPS = 60, 40
HOSTILE = (
    "</script><script>window.hacked = true</script>",
    "<img src=x onerror='window.hacked = true'><svg onload='window.hacked = 1'>",
    "nul \x00 bell \x07 right-to-left \u202e isolate \u2066 lone \ud800 line \u2028 paragraph \u2029 tag \U000e0041",
    "{{ 7 * 7 }} {% raw %} $x^2$ **bold** \\(x\\) [link](javascript:alert(1)) &lt; &amp;",
    "x" * 1_000_000,
    "<reasoning><answer></reasoning></answer><reasoning>",
    "",
)
MARKUP = "</script><img src=x onerror='window.hacked = true'>"
_FITTING = {"name": "rollout_decode", "needed_bytes": 6 * 2**30, "fits": True, "bound_seconds": 0.0123}
PREFLIGHT = {
    "accelerator": {"name": "v5e-8", "chips": 8, "usable_hbm_bytes": 16 * 2**30, "compiler": "the accelerator's own"},
    "mesh": {"fsdp": 2, "tp": 4},
    "warnings": ["mesh: 4 of the 8 chips of v5e-8 are used"],
    "verdict": "does not fit",
    "reasons": ["gradient needs 20.00 GiB a chip, v5e-8 has 16.00"],
    "programs": [
        {**_FITTING, "bound_by": "memory"},
        {"name": "gradient", "needed_bytes": 20 * 2**30, "fits": False, "error": "out of memory"},
    ],
    "tried": [{"settings": {"mesh": {"fsdp": 8, "tp": 1}}, "fits": True, "programs": []}],
    "provenance": synthetic.PROVENANCE,
}
PUBLISHED = {
    "text": "Answers rise from 10–15 % to 35–40 %.",
    "source": "a notebook",
    "conditions": "another model",
    "values": [{"metric": "answer_accuracy", "base": [0.1, 0.15], "trained": 0.375, "difference": None}],
}


def make_results(folder: Path) -> None:
    """Two runs of one recipe, a recipe with hostile texts, a recipe that has only begun, and the page."""
    for seed in (0, 1):
        chosen = {"recipes": ["plain", "hostile", "begun"], "seeds": [0, 1], "seed": seed}
        synthetic.make(folder, f"plain-seed-{seed}", ROWS, STEPS, overtrained=seed == 0, **chosen)
    tags = {"reasoning_start": MARKUP, "reasoning_end": "</style>", "answer_start": "<b>", "answer_end": "\u202e]"}
    prompt = {"system": f"{MARKUP} \u202e {{{{ 7 * 7 }}}}", "tags": tags}
    synthetic.make(folder, "hostile", ROWS, STEPS, hostile=HOSTILE, published=PUBLISHED, prompt=prompt)
    rename_reward(folder / "hostile", "number", MARKUP)
    files.write_json(folder / "hostile" / "preflight.json", PREFLIGHT)
    (folder / "begun").mkdir()
    shutil.copy(folder / "hostile" / "settings.yaml", folder / "begun" / "settings.yaml")
    runs = ["plain-seed-0", "plain-seed-1"]
    seeds = summarise_seeds({run: read_metrics(folder, run) for run in runs})
    files.write_json(folder / "plain" / "seeds.json", seeds)
    synthetic.compare_recipes(folder, [*runs, "hostile"])
    files.write_text(folder / "report.html", render_page(folder, [*runs, "hostile", "begun"], ["plain"]))


def rename_reward(folder, name, hostile):
    """Gives a reward a hostile name, in the figures of training and in the scores of completions."""
    metrics = pd.read_csv(folder / "training" / "metrics.csv")
    metrics = metrics.rename(columns={f"reward_{name}": f"reward_{hostile}"})
    files.write_text(folder / "training" / "metrics.csv", metrics.to_csv(index=False))
    text = (folder / "rewards.jsonl").read_text()
    files.write_text(folder / "rewards.jsonl", text.replace(f'"{name}"', json.dumps(hostile)))


def packed(page, identity):
    """The data of one packed part of the page."""
    (text,) = re.findall(rf'<script type="text/plain" id="{identity}">([A-Za-z0-9+/=]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(text)))


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def browser_of(page, run):
    """The browser of a run's completions, when it shows rows."""
    place = page.locator(f".browser[data-run='data-{run}-completions']")
    place.scroll_into_view_if_needed()
    place.locator(".rows details").first.wait_for()
    return place


def chart(page, selector):
    """A figure, when its chart is drawn."""
    figure = page.locator(selector).first
    figure.scroll_into_view_if_needed()
    figure.locator("canvas").wait_for()
    return figure


def unfold(row):
    """Opens a row of the browser; its content appears a moment after the click."""
    row.locator("summary").click()
    row.locator(".prompt").wait_for()


def pixels(figure):
    """The drawing of a chart."""
    return figure.locator("canvas").evaluate("canvas => canvas.toDataURL()")


def outcomes(results, run, trained="final"):
    """The outcome of each row, by its id."""
    base, after = (
        {row["id"]: row["strict_correct"] for row in read(results / run / "evaluations" / name / "completions.jsonl")}
        for name in ("base", trained)
    )
    return {row: OUTCOMES[base[row], after[row]] for row in base}
