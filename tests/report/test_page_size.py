"""The page of large results: it stays below its limit and counts what it leaves out."""

import re

import pytest

import synthetic
from gsm8k_grpo.report import page
from gsm8k_grpo.report.page import render_page
from report_page import packed

pytestmark = pytest.mark.slow


def test_three_recipes_of_1319_rows_fit_whole(large_results):
    html = (large_results / "report.html").read_text(encoding="utf-8")
    assert len(html.encode()) < page.LARGEST_PAGE_BYTES
    for recipe in ("alpha", "beta", "gamma"):
        assert len(packed(html, f"data-{recipe}-completions")["rows"]) == synthetic.ROWS
        assert len(packed(html, f"data-{recipe}-training")["columns"]["loss"]) == synthetic.STEPS


def test_rows_beyond_the_limit_are_left_out_and_counted(large_results, monkeypatch):
    monkeypatch.setattr(page, "LARGEST_PAGE_BYTES", 1_000_000)
    html = render_page(large_results, ["alpha"], [])
    assert len(html.encode()) < 1_000_000
    rows = packed(html, "data-alpha-completions")["rows"]
    assert 0 < len(rows) < synthetic.ROWS
    assert f"{len(rows)} of 1,319 rows, a fair share of each outcome" in html


def test_many_runs_stay_within_the_limit_and_count_what_is_left_out(large_results, monkeypatch):
    recipes = ["alpha", "beta", "gamma"]
    monkeypatch.setattr(page, "LARGEST_PAGE_BYTES", 1_200_000)
    monkeypatch.setattr(page, "FRAME_BYTES_OF_A_RUN", 36_000)
    html = render_page(large_results, recipes, [])
    assert len(html.encode()) < 1_200_000
    strides = {int(number) for number in re.findall(r"One step in (\d+) is drawn", html)}
    assert strides and min(strides) > 1
    for recipe in recipes:
        columns = packed(html, f"data-{recipe}-training")["columns"]
        assert columns["step"][-1] == synthetic.STEPS and 100 < len(columns["step"]) < synthetic.STEPS / 2
        assert {len(values) for values in columns.values()} == {len(columns["step"])}
    # A limit that leaves no room leaves out all completions.
    monkeypatch.setattr(page, "LARGEST_PAGE_BYTES", 300_000)
    assert render_page(large_results, recipes, []).count("0 of 1,319 rows") == len(recipes)
