"""What all tests share: reproducible Hypothesis runs, compiled programs, the project's folder, the real data set."""

import atexit
import collections
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
settings.load_profile("reproducible")

# Most of the suite's time is compilation. Programs this small run as fast without most optimizations, and compile in
# half the time. All processes share them; JAX finds one by its code, its compiler's options and version.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.mkdtemp(prefix="programs-")
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": programs, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    atexit.register(shutil.rmtree, programs, ignore_errors=True)

# With a file on each core, the longest files begin first, so that none is left over alone. The first makes the small
# run of tests/pipeline; files that do not wait for it follow.
LONG = ("test_artifacts", "test_clusters", "test_programs", "test_resuming", "test_fetched", "test_devices")
LONG += ("test_parity", "test_speed_benchmark", "test_notebooks", "test_sessions", "test_surroundings", "test_reruns")
LONG += ("test_building_and_lora", "test_sampler", "test_failures", "test_tfds", "test_browser_page")
MARKERS = ("slow", "browser", "tpu", "parity", "cluster")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; within them, and after them, the order stays."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


# How many tests of which marker the chosen tier leaves out; every process of pytest-xdist counts them all.
LEFT_OUT: collections.Counter = collections.Counter()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Counts what the chosen tier leaves out."""
    for item in items:
        LEFT_OUT[next((name for name in MARKERS if item.get_closest_marker(name)), "other")] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist: passes the counts on."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Takes them from a process of pytest-xdist."""
    LEFT_OUT.update(
        {k: v for k, v in getattr(node, "workeroutput", {}).get("left_out", {}).items() if k not in LEFT_OUT}
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which subjects did not run: tests of other tiers, and skipped ones with their reasons."""
    reporter = terminalreporter
    reasons = collections.Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in reporter.getreports("skipped")
    )
    if LEFT_OUT:
        counted = ", ".join(f"{count} {mark}" for mark, count in LEFT_OUT.most_common())
        reporter.write_line(f"Not in this tier: {counted} (`make test-all` runs them).")
    for reason, count in reasons.most_common():
        reporter.write_line(f"Skipped {count}: {reason}")


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def published(root) -> Path:
    """GSM8K as published; not part of the project."""
    folder = root.parent / "shared" / "gsm8k"
    if not (folder / "train.jsonl").is_file():
        pytest.skip("needs GSM8K's published files in ../shared/gsm8k")
    return folder
