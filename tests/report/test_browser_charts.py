"""The charts: values under the cursor, series on and off, themes, printing, large runs."""

import re

import pandas as pd
import pytest

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.report import numbers
from gsm8k_grpo.report.metric_catalogue import PANELS
from report_page import PHONE, STEPS, browser_of, chart, pixels

pytestmark = pytest.mark.browser


def test_mouse_and_arrow_keys_read_values_in_all_panels(opened, browser_results):
    page = opened()
    metrics = pd.read_csv(browser_results / "plain-seed-0/training/metrics.csv")
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


def test_a_finger_reads_values(opened, browser_results):
    page = opened(viewport=PHONE, has_touch=True)
    loss = pd.read_csv(browser_results / "plain-seed-0/training/metrics.csv")["loss"]
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


def test_all_charts_are_drawn_without_scrolling(opened):
    """So that a screenshot of the whole page has them."""
    page = opened()
    page.locator("figure[data-chart]:not(:has(canvas))").first.wait_for(state="detached")
    assert page.evaluate("scrollY") == 0 and page.locator("figure[data-chart]").count() > 5


def test_each_panel_of_the_catalogue_is_drawn(opened):
    page = opened()
    titles = page.locator("#plain-seed-0 .panels figcaption strong").all_inner_texts()
    assert titles == [panel.title for panel in PANELS]
    names = page.locator("#plain-seed-0 figure[data-panel=rewards]")
    names.scroll_into_view_if_needed()
    names.locator("canvas").wait_for()
    assert names.locator(".key").all_inner_texts() == ["format exact", "format approximate", "answer", "number"]


def test_series_can_be_hidden_and_shown(opened):
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


def test_the_curve_shows_base_at_step_0_dev_and_test_and_the_choice(opened, browser_results):
    page = opened()
    figure = chart(page, "figure[data-chart=curve][data-run=plain-seed-0]")
    assert figure.locator(".key").all_inner_texts() == [
        "answer, dev",
        "format ignored, dev",
        "format, dev",
        "answer, test",
    ]
    figure.locator(".plot").press("Home")
    dev = files.read_json(browser_results / "plain-seed-0/evaluations-dev/base/metrics.json")["answer_accuracy"]
    assert figure.locator(".at").inner_text() == "step 0"
    said = figure.locator(".value").first.inner_text()
    shown = [float(number) for number in re.findall(r"[\d.]+", said)]
    assert shown == [round(100 * dev[end], 1) for end in ("value", "low", "high")]
    best = files.read_json(browser_results / "plain-seed-0/best.json")
    assert (
        f"chosen on dev: {numbers.percent(best['answer_accuracy']['value'])}"
        in page.locator("#plain-seed-0").inner_text()
    )


def test_the_cost_is_shown_in_seconds_or_tokens(opened, browser_results):
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


def test_print_shows_all_charts_on_white_without_controls(opened):
    page = opened(color_scheme="dark")
    chart(page, "figure[data-chart=curve]")  # by then the data of all charts is unpacked
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    figures = page.locator("figure[data-chart]")
    assert page.evaluate(
        "[...document.querySelectorAll('figure[data-chart]')].every(each => each.querySelector('canvas'))"
    )
    # The last steps are drawn in the colour of the series, #0072b2.
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


@pytest.mark.slow
def test_a_page_of_a_thousand_rows_shows_few_at_a_time(opened, large_results):
    page = opened(large_results / "report.html")
    place = browser_of(page, "beta")
    assert place.locator(".found").inner_text() == f"1–25 of {synthetic.ROWS}"
    assert page.locator(".rows details").count() <= 75
    place.get_by_role("searchbox").fill(f"test-{synthetic.ROWS - 1:05d}")
    assert place.locator(".identity").all_inner_texts() == [f"test-{synthetic.ROWS - 1:05d}"]
    figure = chart(page, "figure[data-run='data-beta-training'][data-panel=loss]")
    figure.locator(".plot").press("End")
    assert figure.locator(".at").inner_text() == f"step {synthetic.STEPS:,}"
