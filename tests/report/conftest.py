"""Results folders and browsers that the tests of the report share."""

import os
import shutil
from pathlib import Path

import pytest

import report_page
import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.report.page import render_page


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """The artifacts of two recipes on the same rows. Tests must not change them."""
    folder = tmp_path_factory.mktemp("made")
    for recipe in ("one", "two"):
        synthetic.make(folder, recipe, 12, 10, recipes=["one", "two"])
    synthetic.compare_recipes(folder, ["one", "two"])
    return folder


@pytest.fixture
def results(made, tmp_path) -> Path:
    """A copy of `made` that a test may change."""
    return shutil.copytree(made, tmp_path / "results")


@pytest.fixture(scope="session")
def large_results(tmp_path_factory) -> Path:
    """Three recipes as large as the published ones (3,738 steps, 1,319 rows each), and their page."""
    folder, recipes = tmp_path_factory.mktemp("large"), ["alpha", "beta", "gamma"]
    for index, recipe in enumerate(recipes):
        synthetic.make(folder, recipe, skill=0.5 + 0.1 * index)
    synthetic.compare_recipes(folder, recipes)
    files.write_text(folder / "report.html", render_page(folder, recipes, []))
    return folder


@pytest.fixture(scope="session")
def browser_results(tmp_path_factory) -> Path:
    """The results and the page of `report_page.make_results`."""
    folder = tmp_path_factory.mktemp("results")
    report_page.make_results(folder)
    return folder


@pytest.fixture(scope="session")
def chromium():
    """The system's browser."""
    if report_page.CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root, as in containers.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=report_page.CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, browser_results):
    """Opens a page. When the test ends, its console must be empty, and it must have requested nothing but the page."""
    contexts, messages, requests = [], [], []

    def open_page(path=browser_results / "report.html", before="", **options):
        context = chromium.new_context(**{"viewport": report_page.DESK, **options})
        context.add_init_script(before)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert all(url.startswith("file://") and url.endswith("report.html") for url in requests), requests
