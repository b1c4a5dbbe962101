"""The page as a whole: the first screen, tables, narrow windows, keyboard, copying, accessibility, its policy."""

from pathlib import Path

import pytest

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.report import numbers, sentences
from report_page import DESK, PHONE, browser_of, chart, unfold

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_first_screen_shows_the_verdict(opened, browser_results, viewport):
    page = opened(viewport=viewport)
    over = files.read_json(browser_results / "plain" / "seeds.json")
    for selector in ("#result .badge", "#result .big", "#result .headline"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= viewport["height"], selector
        assert box["x"] + box["width"] <= viewport["width"], selector
    said = page.locator("#result .badge").first.inner_text()
    assert said == sentences.seeds_verdict(over["final - base"]["answer_accuracy"])
    assert numbers.percent(over["final"]["answer_accuracy"]["value"]) in page.locator("#result .big").first.inner_text()


def test_an_unfinished_recipe_lists_missing_artifacts(opened):
    page = opened()
    card = page.locator("#result .card", has_text="begun")
    assert card.locator(".badge").inner_text() == "not finished"
    card.locator("summary").click()
    assert "begun/training/summary.json does not exist yet" in card.inner_text()
    assert "No step is logged" in page.locator("#begun").inner_text()


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_headings_sort_their_table(opened, browser_results, by):
    page = opened()
    table = page.locator("#runs")
    button = table.get_by_role("button", name="trained")
    runs = ("plain-seed-0", "plain-seed-1", "hostile")
    rate = {
        run: files.read_json(browser_results / run / "evaluations/final/metrics.json")["answer_accuracy"]["value"]
        for run in runs
    }
    for direction in ("descending", "ascending"):
        button.click() if by == "mouse" else button.press("Enter")
        page.wait_for_selector(f"#runs th[aria-sort={direction}]")
        page.wait_for_timeout(50)
        found = [rate[name] for name in table.locator("tbody th").all_inner_texts()]
        assert found == sorted(rate.values(), reverse=direction == "descending")


def test_a_narrowed_window_loses_nothing(opened):
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


def test_the_keyboard_reaches_everything(opened):
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
    # Whatever has the focus shows it.
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "refused"])
def test_settings_and_command_can_be_copied(opened, browser_results, allowed):
    page = opened(permissions=["clipboard-read", "clipboard-write"] if allowed else [])
    if not allowed:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    section = page.locator("#plain-seed-1")
    section.get_by_text("All effective settings", exact=True).click()
    button = section.get_by_role("button", name="Copy the settings")
    button.click()
    section.get_by_role("button", name="Copied" if allowed else "Selected").wait_for()
    text = page.evaluate("navigator.clipboard.readText()" if allowed else "getSelection().toString()")
    assert text.strip() == (browser_results / "plain-seed-1/settings.yaml").read_text().strip()
    command = section.locator("#plain-seed-1-command").inner_text()
    assert f"git checkout {synthetic.PROVENANCE['commit']}" in command
    assert "--config recipes=plain 'seeds=[1]'" in command


def test_preflight_published_results_and_caveats_are_shown(opened):
    page = opened()
    section = page.locator("#hostile")
    bars = section.locator("svg.bar rect")
    assert [bar.get_attribute("class") for bar in bars.all()] == ["fits", "too-much"]
    assert [float(bar.get_attribute("width")) for bar in bars.all()] == [30.0, 100.0]
    assert float(section.locator("svg.bar .limit").first.get_attribute("x1")) == 80.0
    text = section.inner_text()
    assert "Does not fit on v5e-8" in text and "12.3 ms" in text and "memory" in text
    assert "preflight: gradient needs 20.00 GiB a chip" in text and "moving revision: model.revision" in text
    assert "train was restarted 1 time" in text
    published = page.locator(".published").first.inner_text()
    assert (
        "10 to 15 %" in published and "37.5 %" in published and "Not the same conditions: another model." in published
    )
    assert (
        page.locator("#begun-preflight + p").inner_text()
        == "No preflight was made: begun/preflight.json does not exist."
    )


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk light", "phone dark"])
def test_axe_finds_no_serious_accessibility_fault(opened, viewport, scheme):
    import axe_playwright_python

    # axe writes into the page, which the policy of the page refuses.
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


def test_without_scripts_the_page_has_verdict_and_tables(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#result .headline").first.is_visible() and page.locator("#runs").is_visible()
    assert "Scripts are off" in page.locator("noscript").first.inner_text()
    assert not page.locator(".browser").first.is_visible()
    assert page.locator(".unscripted").first.is_visible()


def test_an_old_browser_shows_what_is_needed(opened):
    page = opened(before="delete window.DecompressionStream;")
    said = page.locator("#plain-seed-0 .unscripted")
    assert said.count() == 2 and all(each.is_visible() for each in said.all())
    assert "Firefox 113" in said.first.inner_text()
    assert not page.locator(".browser").first.is_visible() and not page.locator(".training").first.is_visible()
    chart(page, "figure[data-chart=curve]")
    assert not opened().locator(".unscripted").first.is_visible()


def test_an_injected_script_does_not_run(chromium, browser_results, tmp_path):
    page = chromium.new_page()
    injected = "<script>window.hacked = true</script><img src='x:' onerror='window.hacked = 1'>"
    injected += "<a id='link' href='javascript:window.hacked = true'>link</a><style>h1 { display: none }</style>"
    text = (browser_results / "report.html").read_text().replace("<main>", f"<main>{injected}", 1)
    (tmp_path / "report.html").write_text(text)
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("#link").click()
    chart(page, "figure[data-chart=curve]")
    assert page.evaluate("window.hacked") is None and page.locator("h1").is_visible()
    page.close()


def test_the_policy_refuses_foreign_scripts_markup_and_requests(chromium, browser_results):
    page = chromium.new_page()
    page.goto((browser_results / "report.html").as_uri())
    tries = {
        "markup": "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "script": "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked=true'}))",
    }
    for name, code in tries.items():
        refused = page.evaluate(
            f"() => {{ try {{ {code}; return window.hacked ? 'ran' : null; }} catch (error) {{ return error.name; }} }}"
        )
        assert refused == "TypeError", name
    # As a task of the page, because the debugger itself may evaluate everything.
    page.evaluate(
        "setTimeout(() => { try { window.found = eval('1'); } catch (error) { window.found = error.name; } })"
    )
    page.wait_for_function("window.found")
    assert page.evaluate("window.found") == "EvalError"
    assert page.evaluate("fetch('https://example.org').then(() => 'fetched', error => error.name)") == "TypeError"
    page.close()
