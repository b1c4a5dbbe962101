"""The browser of completions: filters, pages, search, order, rows, and texts that try to break out."""

import re

import pytest

from gsm8k_grpo.evaluation.comparison import OUTCOMES
from gsm8k_grpo.report import numbers
from report_page import DESK, HOSTILE, MARKUP, PHONE, ROWS, STEPS, browser_of, chart, outcomes, read, unfold

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("trained", ["final", "best"])
def test_each_filter_shows_its_rows_and_their_number(opened, browser_results, trained):
    page = opened()
    place, wanted = browser_of(page, "plain-seed-0"), outcomes(browser_results, "plain-seed-0", trained)
    if trained == "best":
        place.get_by_label("Base against").select_option(label=f"step-{STEPS // 2}, best on dev")
    labels = place.locator("fieldset label")
    seen = 0
    for index, name in enumerate(("all", *OUTCOMES.values())):
        count = len(wanted) if name == "all" else list(wanted.values()).count(name)
        label = labels.nth(index)
        assert label.inner_text().split() == [*name.split(), str(count)]
        label.click()
        found = place.locator(".found").inner_text()
        assert found == (f"1–{min(25, count)} of {count}" if count else "no matching row")
        rows = place.locator(".rows details")
        assert rows.count() == min(25, count)
        for shown in rows.all():
            outcome, identity = (shown.locator(f"summary .{part}").inner_text() for part in ("outcome", "identity"))
            assert wanted[identity] == outcome == (outcome if name == "all" else name)
            seen += name != "all"
    assert seen > 40


def test_paging_shows_all_rows(opened):
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


def test_the_search_covers_prompts_completions_and_ids(opened, browser_results):
    page = opened()
    place = browser_of(page, "plain-seed-0")
    search = place.get_by_role("searchbox")
    rows = read(browser_results / "plain-seed-0/evaluations/final/completions.jsonl")
    part = rows[42]["completion"][60:90]
    for text, ids in (("test-00017", ["test-00017"]), (part.upper(), ["test-00042"]), ("no such text", [])):
        search.fill(text)
        assert place.locator(".identity").all_inner_texts() == ids
    assert place.locator(".found").inner_text() == "no matching row"
    search.fill("")
    assert place.locator(".found").inner_text() == "1–25 of 60"


def test_rows_are_ordered_by_their_rewards(opened, browser_results):
    page = opened()
    place, order = browser_of(page, "plain-seed-0"), browser_of(page, "plain-seed-0").get_by_label("Order")
    rewards = {
        row["id"]: (sum(row["base"].values()), sum(row["final"].values()))
        for row in read(browser_results / "plain-seed-0/rewards.jsonl")
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


def test_a_row_shows_prompt_completions_readings_and_rewards(opened, browser_results):
    page = opened()
    place = browser_of(page, "plain-seed-0")
    row = place.locator(".rows details").nth(3)
    unfold(row)
    prompt = read(browser_results / "plain-seed-0/prompts/test.jsonl")[3]["prompt"]
    assert row.locator(".prompt").evaluate("place => place.textContent") == prompt
    scored = read(browser_results / "plain-seed-0/rewards.jsonl")[3]
    for index, name in enumerate(("base", "final")):
        graded = read(browser_results / f"plain-seed-0/evaluations/{name}/completions.jsonl")[3]
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


def test_the_best_checkpoint_can_be_compared_if_it_is_not_the_last(opened, browser_results):
    page = opened()
    place = browser_of(page, "plain-seed-0")
    place.get_by_label("Base against").select_option(label=f"step-{STEPS // 2}, best on dev")
    row = place.locator(".rows details").nth(3)
    unfold(row)
    graded = read(browser_results / "plain-seed-0/evaluations/best/completions.jsonl")[3]
    assert row.locator("h5").all_inner_texts() == ["prompt", "base", f"step-{STEPS // 2}"]
    assert row.locator(".side .completion").nth(1).evaluate("place => place.textContent") == graded["completion"]
    scored = read(browser_results / "plain-seed-0/rewards.jsonl")[3]
    total = row.locator(".rewards tbody tr").last.locator("td").last.inner_text()
    assert float(total.replace("−", "-")) == pytest.approx(sum(scored["best"].values()))
    assert browser_of(page, "hostile").get_by_label("Base against").count() == 0


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_hostile_completions_appear_as_text(opened, viewport):
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
