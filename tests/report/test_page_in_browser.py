"""The page as it is seen: opened from its file in headless Chromium, clicked through, with nothing on the console."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.evaluation.artifacts import read_metrics
from gsm8k_grpo.evaluation.seeds import summarise_seeds
from gsm8k_grpo.report import numbers, sentences
from gsm8k_grpo.report.page import render_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
ROWS, STEPS = 60, 40
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'><svg onload='window.hacked = 1'>",
    "nul \x00 bell \x07 right-to-left \u202e isolate \u2066 lone \ud800 line \u2028 paragraph \u2029 tag \U000e0041",
    "{{ 7 * 7 }} {% raw %} $x^2$ **bold** \\(x\\) [link](javascript:alert(1)) &lt; &amp;",
    "x" * 1_000_000,
    "<reasoning><answer></reasoning></answer><reasoning>",
    "",
)
MARKUP = "</script><img src=x onerror='window.hacked = 1'>"
PREFLIGHT = {
    "accelerator": {"name": "v5e-8", "chips": 8, "usable_hbm_bytes": 16 * 2**30, "compiler": "the accelerator's own"},
    "level": "screen",
    "mesh": {"fsdp": 2, "tp": 4},
    "mesh_sizes_that_work": [],
    "warnings": ["mesh: 4 of the 8 chips of v5e-8 are used"],
    "verdict": "does not fit",
    "reasons": ["train_step needs 20.00 GiB a chip, v5e-8 has 16.00"],
    "programs": [
        {
            "name": "rollout_decode",
            "needed_bytes": 6 * 2**30,
            "fits": True,
            "bound_seconds": 0.0123,
            "bound_by": "memory",
        },
        {"name": "train_step", "needed_bytes": 20 * 2**30, "fits": False, "error": "out of memory"},
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


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Two runs of one recipe, another recipe whose completions are hostile, and one that has only begun; the page."""
    folder = tmp_path_factory.mktemp("results")
    for seed in (0, 1):
        chosen = {"recipes": ["plain", "hostile", "begun"], "seeds": [0, 1], "seed": seed}
        synthetic.make(folder, f"plain-seed-{seed}", ROWS, STEPS, overtrained=seed == 0, **chosen)
    tags = {"reasoning_start": MARKUP, "reasoning_end": "</style>", "answer_start": "<b>", "answer_end": "\u202e]"}
    prompt = {"system": f"{MARKUP} \u202e {{{{ 7 * 7 }}}}", "tags": tags}
    synthetic.make(folder, "hostile", ROWS, STEPS, hostile=HOSTILE, published=PUBLISHED, prompt=prompt)
    rename_a_reward(folder / "hostile", "number", MARKUP)
    files.write_json(folder / "hostile" / "preflight.json", PREFLIGHT)
    (folder / "begun").mkdir()
    shutil.copy(folder / "hostile" / "settings.yaml", folder / "begun" / "settings.yaml")
    runs = ["plain-seed-0", "plain-seed-1"]
    measured = {run: read_metrics(folder, run) for run in runs}
    files.write_json(folder / "plain" / "seeds.json", summarise_seeds(measured))
    synthetic.compare_recipes(folder, [*runs, "hostile"])
    files.write_text(folder / "report.html", render_page(folder, [*runs, "hostile", "begun"], ["plain"]))
    return folder


def rename_a_reward(folder, name, hostile):
    """Gives a reward a hostile name, in a recipe's figures and in what it gave to completions."""
    metrics = pd.read_csv(folder / "training" / "metrics.csv")
    metrics = metrics.rename(columns={f"reward_{name}": f"reward_{hostile}"})
    files.write_text(folder / "training" / "metrics.csv", metrics.to_csv(index=False))
    text = (folder / "rewards.jsonl").read_text()
    files.write_text(folder / "rewards.jsonl", text.replace(f'"{name}"', json.dumps(hostile)))


@pytest.fixture(scope="session")
def chromium():
    """The system's browser; nothing is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root, as in containers.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, results):
    """Opens a page; at the end of the test its console must be empty, and nothing but the file asked for."""
    contexts, said, asked = [], [], []

    def open_page(path=results / "report.html", before="", **options):
        context = chromium.new_context(**{"viewport": DESK, **options})
        context.add_init_script(before)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith("file://") and url.endswith("report.html") for url in asked), asked


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def browser_of(page, run):
    """The browser of a run's completions, once it has its rows."""
    place = page.locator(f".browser[data-run='data-{run}-completions']")
    place.scroll_into_view_if_needed()
    place.locator(".rows details").first.wait_for()
    return place


def chart(page, selector):
    """A figure, once its chart is drawn."""
    figure = page.locator(selector).first
    figure.scroll_into_view_if_needed()
    figure.locator("canvas").wait_for()
    return figure


def unfold(row):
    """Opens a row of the browser; what is in it is made when it opens, a moment after the click."""
    row.locator("summary").click()
    row.locator(".prompt").wait_for()


def pixels(figure):
    """What a chart has drawn."""
    return figure.locator("canvas").evaluate("canvas => canvas.toDataURL()")


def outcomes(results, run, trained="final"):
    """What became of each row, by its id."""
    base, after = (
        {row["id"]: row["strict_correct"] for row in read(results / run / "evaluations" / name / "completions.jsonl")}
        for name in ("base", trained)
    )
    names = {(False, True): "fixed", (True, False): "broken", (False, False): "wrong both times"}
    return {row: names.get((base[row], after[row]), "right both times") for row in base}


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_first_screen_says_whether_it_worked(opened, results, viewport):
    page = opened(viewport=viewport)
    over = files.read_json(results / "plain" / "seeds.json")
    for selector in ("#result .badge", "#result .big", "#result .headline"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= viewport["height"], selector
        assert box["x"] + box["width"] <= viewport["width"], selector
    said = page.locator("#result .badge").first.inner_text()
    assert said == sentences.seeds_verdict(over["final - base"]["answer_accuracy"])
    assert numbers.percent(over["final"]["answer_accuracy"]["value"]) in page.locator("#result .big").first.inner_text()


def test_a_recipe_that_has_only_begun_says_what_is_missing(opened):
    page = opened()
    card = page.locator("#result .card", has_text="begun")
    assert card.locator(".badge").inner_text() == "not finished"
    card.locator("summary").click()
    assert "begun/training/summary.json is not there yet" in card.inner_text()
    assert "No step is logged" in page.locator("#begun").inner_text()


@pytest.mark.parametrize("trained", ["final", "best"])
def test_every_filter_shows_its_rows_and_their_number(opened, results, trained):
    page = opened()
    place, wanted = browser_of(page, "plain-seed-0"), outcomes(results, "plain-seed-0", trained)
    if trained == "best":
        place.get_by_label("Base against").select_option(label=f"step-{STEPS // 2}, best on dev")
    labels = place.locator("fieldset label")
    seen = 0
    for index, name in enumerate(("all", *page.completions_shown.OUTCOMES)):
        count = len(wanted) if name == "all" else list(wanted.values()).count(name)
        label = labels.nth(index)
        assert label.inner_text().split() == [*name.split(), str(count)]
        label.click()
        found = place.locator(".found").inner_text()
        assert found == (f"1–{min(25, count)} of {count}" if count else "no row fits")
        rows = place.locator(".rows details")
        assert rows.count() == min(25, count)
        for shown in rows.all():
            outcome, identity = (shown.locator(f"summary .{part}").inner_text() for part in ("outcome", "identity"))
            assert wanted[identity] == outcome == (outcome if name == "all" else name)
            seen += name != "all"
    assert seen > 40


def test_pages_go_through_all_rows(opened):
    page = opened()
    place = browser_of(page, "plain-seed-0")
    previous, following = place.get_by_role("button", name="Previous"), place.get_by_role("button", name="Next")
    assert previous.is_disabled()
    ids = []
    for shown in (25, 25, 10):
        ids += place.locator(".identity").all_inner_texts()
        assert place.locator(".rows details").count() == shown
        if following.is_enabled():
            following.click()
    assert ids == [f"test-{index:05d}" for index in range(ROWS)]
    assert following.is_disabled()
    previous.click()
    assert place.locator(".found").inner_text() == "26–50 of 60"


def test_search_looks_through_prompts_completions_and_ids(opened, results):
    page = opened()
    place = browser_of(page, "plain-seed-0")
    search = place.get_by_role("searchbox")
    rows = read(results / "plain-seed-0/evaluations/final/completions.jsonl")
    part = rows[42]["completion"][60:90]
    for text, ids in (("test-00017", ["test-00017"]), (part.upper(), ["test-00042"]), ("no such text", [])):
        search.fill(text)
        assert place.locator(".identity").all_inner_texts() == ids
    assert place.locator(".found").inner_text() == "no row fits"
    search.fill("")
    assert place.locator(".found").inner_text() == "1–25 of 60"


def test_rows_come_in_the_order_of_their_rewards(opened, results):
    page = opened()
    place, order = browser_of(page, "plain-seed-0"), browser_of(page, "plain-seed-0").get_by_label("Order")
    rewards = {
        row["id"]: (sum(row["base"].values()), sum(row["final"].values()))
        for row in read(results / "plain-seed-0/rewards.jsonl")
    }
    for choice, key in (
        ("worst", lambda row: rewards[row][1]),
        ("best", lambda row: -rewards[row][1]),
        ("lost", lambda row: rewards[row][1] - rewards[row][0]),
    ):
        order.select_option(choice)
        ids = place.locator(".identity").all_inner_texts()
        assert ids == sorted(rewards, key=key)[:25], choice
    order.select_option("rows")
    assert place.locator(".identity").first.inner_text() == "test-00000"


def test_a_row_shows_prompt_completions_readings_and_rewards(opened, results):
    page = opened()
    place = browser_of(page, "plain-seed-0")
    row = place.locator(".rows details").nth(3)
    unfold(row)
    prompt = read(results / "plain-seed-0/prompts/test.jsonl")[3]["prompt"]
    assert row.locator(".prompt").evaluate("place => place.textContent") == prompt
    scored = read(results / "plain-seed-0/rewards.jsonl")[3]
    for index, name in enumerate(("base", "final")):
        graded = read(results / f"plain-seed-0/evaluations/{name}/completions.jsonl")[3]
        side = row.locator(".side").nth(index)
        assert side.locator(".completion").evaluate("place => place.textContent") == graded["completion"]
        tags = [tag for tag in re.findall(r"</?(?:reasoning|answer)>", graded["completion"])]
        assert side.locator(".tag").all_inner_texts() == tags
        for part in ("reasoning", "answer"):
            inside = re.findall(rf"<{part}>(.*?)</{part}>", graded["completion"])
            assert side.locator(f".completion .{part}").all_inner_texts() == inside
        facts = side.inner_text()
        assert (
            f"strict read {graded['strict'] or 'nothing'}, {'right' if graded['strict_correct'] else 'wrong'}" in facts
        )
        assert f"{graded['tokens']} tokens" in facts
        cells = row.locator(f".rewards tbody td:nth-child({index + 2})").all_inner_texts()
        values = [float(cell.replace("−", "-")) for cell in cells]
        assert values == pytest.approx([*scored[name].values(), sum(scored[name].values())])


def test_the_best_checkpoint_stands_beside_the_base_where_it_is_not_the_last(opened, results):
    page = opened()
    place = browser_of(page, "plain-seed-0")
    place.get_by_label("Base against").select_option(label=f"step-{STEPS // 2}, best on dev")
    row = place.locator(".rows details").nth(3)
    unfold(row)
    graded = read(results / "plain-seed-0/evaluations/best/completions.jsonl")[3]
    assert row.locator("h5").all_inner_texts() == ["prompt", "base", f"step-{STEPS // 2}"]
    assert row.locator(".side .completion").nth(1).evaluate("place => place.textContent") == graded["completion"]
    scored = read(results / "plain-seed-0/rewards.jsonl")[3]
    total = row.locator(".rewards tbody tr").last.locator("td").last.inner_text()
    assert float(total.replace("−", "-")) == pytest.approx(sum(scored["best"].values()))
    assert browser_of(page, "hostile").get_by_label("Base against").count() == 0


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_hostile_completions_are_shown_as_text_and_break_nothing(opened, viewport):
    page = opened(viewport=viewport)
    place = browser_of(page, "hostile")
    for index, text in enumerate(HOSTILE):
        row = place.locator(".rows details").nth(index)
        unfold(row)
        for side in row.locator(".completion").all():
            assert side.evaluate("place => place.textContent") == numbers.shorten_visible(text)
            assert side.evaluate(
                "place => [...place.children].every(part => part.tagName == 'SPAN' && !part.children.length)"
            )
    assert place.locator(".rewards tbody th").all_inner_texts()[3] == MARKUP
    rewards = chart(page, "figure[data-run='data-hostile-training'][data-panel=rewards]")
    assert rewards.locator(".key").last.inner_text() == MARKUP
    assert "You are" not in page.locator("#hostile-settings").inner_text() and MARKUP in place.inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator(".browser :is(img, script, iframe, svg)").count() == 0
    assert page.locator("img, iframe").count() == 0
    shown = place.locator(".completion").all_text_contents()
    assert "nul ⟨U+0000⟩ bell ⟨U+0007⟩ right-to-left ⟨U+202E⟩ isolate ⟨U+2066⟩ lone ⟨U+D800⟩" in shown[4]
    assert shown[8].endswith("… and 996,000 characters more")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_hover_and_arrow_keys_read_values_in_all_panels(opened, results):
    page = opened()
    metrics = pd.read_csv(results / "plain-seed-0/training/metrics.csv")
    run = "data-plain-seed-0-training"
    loss = chart(page, f"figure[data-run='{run}'][data-panel=loss]")
    norm = chart(page, f"figure[data-run='{run}'][data-panel=gradient_norm]")
    loss.locator(".u-over").hover()
    step = int(loss.locator(".at").inner_text().removeprefix("step ").replace(",", ""))
    assert norm.locator(".at").inner_text() == f"step {step}"

    def said(figure):
        return float(figure.locator(".value").inner_text())

    for figure, name in ((loss, "loss"), (norm, "gradient_norm")):
        assert said(figure) == pytest.approx(metrics[name][step - 1], rel=1e-3)
    for key, wanted in (("Home", 1), ("ArrowRight", 2), ("Shift+ArrowRight", 12), ("ArrowLeft", 11), ("End", STEPS)):
        loss.locator(".plot").press(key)
        assert loss.locator(".at").inner_text() == norm.locator(".at").inner_text() == f"step {wanted}"
        assert said(loss) == pytest.approx(metrics["loss"][wanted - 1], rel=1e-3)


def test_a_finger_reads_values_too(opened, results):
    page = opened(viewport=PHONE, has_touch=True)
    loss = pd.read_csv(results / "plain-seed-0/training/metrics.csv")["loss"]
    figure = chart(page, "figure[data-run='data-plain-seed-0-training'][data-panel=loss]")
    box = figure.locator(".u-over").bounding_box()
    seen, finger = [], page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.25), ("touchMove", 0.4), ("touchMove", 0.75)):
        point = {"x": box["x"] + share * box["width"], "y": box["y"] + box["height"] / 2}
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        page.wait_for_timeout(50)
        said = figure.locator(".at").inner_text()
        if kind == "touchMove":
            seen.append(int(said.removeprefix("step ")))
            assert float(figure.locator(".value").inner_text()) == pytest.approx(loss[seen[-1] - 1], rel=1e-3)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert STEPS / 4 < seen[0] < STEPS / 2 < seen[1] < STEPS


def test_every_figure_of_training_has_its_panel(opened):
    page = opened()
    titles = page.locator("#plain-seed-0 .panels figcaption strong").all_inner_texts()
    wanted = ["Total reward", "Each reward", "Standard deviation of the reward", "Groups without signal", "Loss"]
    wanted += [
        "Gradient norm",
        "Learning rate",
        "KL to the base model",
        "Entropy",
        "Clipped ratios",
        "Completion length",
    ]
    assert titles == [*wanted, "Cut at the limit", "Tokens so far", "Epoch", "Seconds of a step"]
    names = page.locator("#plain-seed-0 figure[data-panel=rewards]")
    names.scroll_into_view_if_needed()
    names.locator("canvas").wait_for()
    assert names.locator(".key").all_inner_texts() == ["format exact", "format approximate", "answer", "number"]


def test_series_are_switched_off_and_on(opened):
    page = opened()
    figure = chart(page, "figure[data-run='data-plain-seed-0-training'][data-panel=rewards]")
    drawn = pixels(figure)
    box = figure.get_by_label("answer")
    box.uncheck()
    without = pixels(figure)
    assert without != drawn
    box.check()
    assert pixels(figure) == drawn
    seen = {drawn, without}
    for kind in ("raw", "smoothed"):
        switch = page.locator(f"#plain-seed-0 input[data-kind={kind}]")
        switch.uncheck()
        assert pixels(figure) not in seen
        seen.add(pixels(figure))
        switch.check()
    assert pixels(figure) == drawn


def test_the_curve_has_base_at_step_0_dev_apart_from_test_and_the_choice(opened, results):
    page = opened()
    figure = chart(page, "figure[data-chart=curve][data-run=plain-seed-0]")
    assert figure.locator(".key").all_inner_texts() == [
        "answer, dev",
        "format ignored, dev",
        "format, dev",
        "answer, test",
    ]
    figure.locator(".plot").press("Home")
    dev = files.read_json(results / "plain-seed-0/evaluations-dev/base/metrics.json")["answer_accuracy"]
    assert figure.locator(".at").inner_text() == "step 0"
    said = figure.locator(".value").first.inner_text()
    numbers = [float(number) for number in re.findall(r"[\d.]+", said)]
    assert numbers == [round(100 * dev[end], 1) for end in ("value", "low", "high")]
    best = files.read_json(results / "plain-seed-0/best.json")
    assert (
        f"chosen on dev: {numbers.percent(best['answer_accuracy']['value'])}"
        in page.locator("#plain-seed-0").inner_text()
    )


def test_the_cost_is_in_seconds_or_tokens(opened, results):
    page = opened()
    figure = chart(page, "#cost")
    for kind in ("seconds", "tokens"):
        figure.get_by_label(kind, exact=True).check()
        figure.locator(".plot").press("Home")
        assert figure.locator(".at").inner_text().startswith(f"{kind} ")
        assert sorted(figure.locator(".key span:not([class])").all_inner_texts()) == [
            "hostile",
            "plain-seed-0",
            "plain-seed-1",
        ]


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_heading_sorts_its_table(opened, results, by):
    page = opened()
    table = page.locator("#runs")
    button = table.get_by_role("button", name="trained")
    runs = ("plain-seed-0", "plain-seed-1", "hostile")
    rate = {
        run: files.read_json(results / run / "evaluations/final/metrics.json")["answer_accuracy"]["value"]
        for run in runs
    }
    for direction in ("descending", "ascending"):
        button.click() if by == "mouse" else button.press("Enter")
        page.wait_for_selector(f"#runs th[aria-sort={direction}]")
        page.wait_for_timeout(50)
        found = [rate[name] for name in table.locator("tbody th").all_inner_texts()]
        assert found == sorted(rate.values(), reverse=direction == "descending")


def test_the_theme_follows_the_system_and_the_choice(opened):
    page = opened(color_scheme="light")
    figure = chart(page, "figure[data-chart=curve][data-run=plain-seed-0]")

    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, drawn = background(), pixels(figure)
    page.get_by_label("Theme").select_option("dark")
    dark = background()
    assert dark != light and pixels(figure) != drawn
    page.get_by_label("Theme").select_option("system")
    assert background() == light and pixels(figure) == drawn
    page.emulate_media(color_scheme="dark")
    assert background() == dark
    page.get_by_label("Theme").select_option("light")
    assert background() == light


def test_a_window_made_as_narrow_as_a_phone_loses_nothing(opened):
    page = opened()
    figure = chart(page, "figure[data-chart=curve][data-run=plain-seed-0]")
    wide = figure.locator("canvas").bounding_box()["width"]
    page.set_viewport_size(PHONE)
    page.wait_for_function(
        "wide => document.querySelector('figure[data-chart=curve] canvas').clientWidth < wide / 2", arg=wide
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    panels = [box.bounding_box() for box in page.locator("#plain-seed-0 .panels figure").all()]
    assert len({panel["x"] for panel in panels}) == 1 and all(panel["width"] <= PHONE["width"] for panel in panels)
    place = browser_of(page, "plain-seed-0")
    unfold(place.locator(".rows details").first)
    base, final = (side.bounding_box() for side in place.locator(".side").all())
    assert final["y"] >= base["y"] + base["height"] and final["x"] == base["x"]
    for width in (PHONE["width"], 500, 720):
        page.set_viewport_size({"width": width, "height": 844})
        scrolled = page.locator("#result .scroll").evaluate_all(
            "all => all.filter(each => each.scrollWidth > each.clientWidth).length"
        )
        assert scrolled == 0, width


def test_the_keyboard_reaches_and_works_everything(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the result"
    place = browser_of(page, "plain-seed-0")
    place.get_by_label("all").focus()
    page.keyboard.press("ArrowDown")
    assert place.get_by_label("fixed").is_checked()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.type("test-0000")
    summary = place.locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    place.locator("details").first.locator(".prompt").wait_for()
    # Nothing that has the focus hides that it has: an outline, or the system's own of a checkbox.
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "refused"])
def test_settings_and_command_are_copied_or_selected(opened, results, allowed):
    page = opened(permissions=["clipboard-read", "clipboard-write"] if allowed else [])
    if not allowed:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    section = page.locator("#plain-seed-1")
    section.get_by_text("All effective settings", exact=True).click()
    button = section.get_by_role("button", name="Copy the settings")
    button.click()
    section.get_by_role("button", name="Copied" if allowed else "Selected").wait_for()
    text = page.evaluate("navigator.clipboard.readText()" if allowed else "getSelection().toString()")
    assert text.strip() == (results / "plain-seed-1/settings.yaml").read_text().strip()
    command = section.locator("#plain-seed-1-command").inner_text()
    assert f"git checkout {synthetic.PROVENANCE['commit']}" in command
    assert "--config recipes=plain 'seeds=[1]'" in command


def test_preflight_published_results_and_doubts_are_shown(opened):
    page = opened()
    section = page.locator("#hostile")
    bars = section.locator("svg.bar rect")
    assert [bar.get_attribute("class") for bar in bars.all()] == ["fits", "too-much"]
    assert [float(bar.get_attribute("width")) for bar in bars.all()] == [30.0, 100.0]
    assert float(section.locator("svg.bar .limit").first.get_attribute("x1")) == 80.0
    text = section.inner_text()
    assert "Does not fit on v5e-8" in text and "12.3 ms" in text and "memory" in text
    assert "preflight: train_step needs 20.00 GiB a chip" in text and "moving revision: model.revision" in text
    assert "train was restarted 1 time" in text
    published = page.locator(".published").first.inner_text()
    assert (
        "10 to 15 %" in published and "37.5 %" in published and "Not the same conditions: another model." in published
    )
    assert page.locator("#begun-preflight + p").inner_text() == "None was made: begun/preflight.json is not there."


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk light", "phone dark"])
def test_axe_finds_no_serious_fault_of_accessibility(opened, viewport, scheme):
    import axe_playwright_python

    # axe writes into the page, which the page's own policy would refuse.
    page = opened(viewport=viewport, color_scheme=scheme, bypass_csp=True)
    chart(page, "#cost")
    chart(page, "figure[data-panel=rewards]")
    unfold(browser_of(page, "plain-seed-0").locator(".rows details").first)
    page.evaluate("document.querySelectorAll('#plain-seed-0 details').forEach(each => each.open = true)")
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (fault["id"], fault["help"], [node["target"] for node in fault["nodes"]][:4])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert len(found["passes"]) > 20
    assert serious == []


def test_printed_it_has_all_charts_on_white_and_no_controls(opened):
    page = opened(color_scheme="dark")
    chart(page, "figure[data-chart=curve]")  # the data of all charts is unpacked
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    figures = page.locator("figure[data-chart]")
    assert page.evaluate(
        "[...document.querySelectorAll('figure[data-chart]')].every(each => each.querySelector('canvas'))"
    )
    # Drawn with all their data: the last steps are there in the series' colour, #0072b2.
    blue = page.locator("figure[data-run='data-plain-seed-1-training'][data-panel=loss] canvas").evaluate(
        """canvas => {
          const { width, height } = canvas;
          const found = canvas.getContext("2d").getImageData(0.8 * width, 0, 0.2 * width, height).data;
          let count = 0;
          for (let at = 0; at < found.length; at += 4)
            if ([0, 0x72, 0xb2, 255].every((value, place) => found[at + place] === value)) count += 1;
          return count;
        }"""
    )
    assert blue > 20
    page.set_viewport_size({"width": 700, "height": 900})
    widths = page.locator("canvas").evaluate_all("all => all.map(each => each.getBoundingClientRect().right)")
    assert max(widths) <= 700
    assert figures.count() > 30
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#theme").is_visible() and not page.locator("nav").first.is_visible()
    folded = page.locator("details:not([open])")
    assert set(folded.locator("> summary").all_inner_texts()) == {"All effective settings"}
    assert page.pdf()[:4] == b"%PDF"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.evaluate("document.documentElement.dataset.theme") is None


def test_without_scripts_verdict_and_tables_are_there(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#result .headline").first.is_visible() and page.locator("#runs").is_visible()
    assert "Scripts are off" in page.locator("noscript").first.inner_text()
    assert not page.locator(".browser").first.is_visible()
    assert page.locator(".unscripted").first.is_visible()


def test_a_browser_that_cannot_unpack_says_what_it_would_take(opened):
    page = opened(before="delete window.DecompressionStream;")
    said = page.locator("#plain-seed-0 .unscripted")
    assert said.count() == 2 and all(each.is_visible() for each in said.all())
    assert "Firefox 113" in said.first.inner_text()
    assert not page.locator(".browser").first.is_visible() and not page.locator(".training").first.is_visible()
    chart(page, "figure[data-chart=curve]")
    assert not opened().locator(".unscripted").first.is_visible()


def test_a_script_that_got_into_the_file_does_not_run(chromium, results, tmp_path):
    page = chromium.new_page()
    injected = "<script>window.hacked = 1</script><img src='x:' onerror='window.hacked = 1'>"
    injected += "<a id='link' href='javascript:window.hacked = 1'>link</a><style>h1 { display: none }</style>"
    text = (results / "report.html").read_text().replace("<main>", f"<main>{injected}", 1)
    (tmp_path / "report.html").write_text(text)
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("#link").click()
    chart(page, "figure[data-chart=curve]")
    assert page.evaluate("window.hacked") is None and page.locator("h1").is_visible()
    page.close()


def test_the_policy_refuses_what_the_page_does_not_bring_itself(chromium, results):
    page = chromium.new_page()
    page.goto((results / "report.html").as_uri())
    tries = {
        "markup": "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "script": "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))",
    }
    for name, code in tries.items():
        refused = page.evaluate(
            f"() => {{ try {{ {code}; return window.hacked ? 'ran' : null; }} catch (error) {{ return error.name; }} }}"
        )
        assert refused == "TypeError", name
    # In a task of the page's own: what the debugger itself evaluates may do everything.
    page.evaluate(
        "setTimeout(() => { try { window.found = eval('1'); } catch (error) { window.found = error.name; } })"
    )
    page.wait_for_function("window.found")
    assert page.evaluate("window.found") == "EvalError"
    assert page.evaluate("fetch('https://example.org').then(() => 'fetched', error => error.name)") == "TypeError"
    page.close()


def test_a_thousand_rows_stay_a_few_in_the_page(opened, large_results):
    page = opened(large_results / "report.html")
    place = browser_of(page, "beta")
    assert place.locator(".found").inner_text() == f"1–25 of {synthetic.ROWS}"
    assert page.locator(".rows details").count() <= 75
    place.get_by_role("searchbox").fill(f"test-{synthetic.ROWS - 1:05d}")
    assert place.locator(".identity").all_inner_texts() == [f"test-{synthetic.ROWS - 1:05d}"]
    figure = chart(page, "figure[data-run='data-beta-training'][data-panel=loss]")
    figure.locator(".plot").press("End")
    assert figure.locator(".at").inner_text() == f"step {synthetic.STEPS:,}"
