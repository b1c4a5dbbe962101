"""The documentation: links and anchors resolve, commands can be run, paths exist, generated parts are up to date."""

import re
import shlex
import subprocess
import sys

import pytest

from workflow_copy import ROOT, Snakemake, copy_sources

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TRIED = [ROOT / "README.md", ROOT / "docs" / "getting-started.md"]  # a newcomer types these commands
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# Paths in code spans that the project must have: not those with a placeholder (NAME, …) or a choice ({a,b}).
PATH = re.compile(r"`((?:benchmarks|docs|envs|profiles|recipes|rules|schemas|scripts|tests|\.ci)/[\w./-]*)`")


def name(path):
    return path.relative_to(ROOT).as_posix()


def prose(page):
    """A page's text without its code."""
    return re.sub(r"`[^`\n]+`", "`code`", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(page):
    """The shell blocks of a page: (text, whether its first line says that it needs something that is not here)."""
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("sh", "bash", "console"):
            yield text, text.startswith("# needs")


def lines(text):
    """The commands of a shell block or a code span, one list of words each."""
    words = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    return [line for line in words if line]


def dry_runs():
    """The Snakemake commands that README.md's blocks and table and the first steps tell to run, each once."""
    found = {}
    for page in TRIED:
        rows = re.findall(r"^\|.*\| `(--config [^`\n]+)` \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
        spans = [f"snakemake --cores 1 results/report.html {options}" for options in rows]
        for text in [*(text for text, needs in blocks(page) if not needs), *spans]:
            for command in lines(text):
                if command[0] == "snakemake":
                    arguments = tuple(word for word in command[1:] if word != "--dry-run")
                    found.setdefault(arguments, pytest.param(arguments, id=" ".join(arguments)))
    return list(found.values())


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Runs `snakemake --dry-run` on the project without results; returns (exit status, all that it printed)."""
    snakemake = Snakemake(tmp_path_factory.mktemp("offline"))
    project = copy_sources(tmp_path_factory.mktemp("project"))
    return lambda arguments: snakemake(project, "--dry-run", *arguments)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_resolve(page):
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(target)
    assert not broken


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_each_page_is_in_the_navigation_and_linked_from_the_readme():
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    for page in (ROOT / "docs").glob("*.md"):
        assert f'"{page.name}"' in navigation and f"docs/{page.name}" in linked, page.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"^make ([\w-]+)", text, re.MULTILINE) + re.findall(r"`make ([\w-]+)[^`\n]*`", text)
    assert set(named) <= targets


def test_there_are_commands_to_try():
    assert 5 <= len(dry_runs()) <= 12
    assert any(needs for page in TRIED for _, needs in blocks(page))


@pytest.mark.parametrize("arguments", dry_runs())
def test_snakemake_commands_pass_a_dry_run(dry_run, arguments):
    status, text = dry_run(arguments)
    assert status == 0, text


def test_other_commands_to_try_are_known():
    """What is neither a dry run nor a make target: a word that is not checked here must not slip in."""
    others = {
        command[0]
        for page in TRIED
        for text, needs in blocks(page)
        for command in lines(text)
        if not needs and command[0] not in ("snakemake", "make")
    }
    assert others <= {"source"}


def named_in_the_tree():
    """The paths in README.md's tree: an indented line continues the last one that is not."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## What lies where")[1]
    parent = ""
    for line in FENCE.search(text)[2].splitlines():
        path = line.split()[0]
        yield parent + path if line.startswith(" ") else path
        parent = parent if line.startswith(" ") else path


def missing(paths):
    """Those of some paths that the project does not have."""
    return [path for path in paths if not (ROOT / path).exists()]


def test_paths_of_the_readmes_tree_exist():
    paths = list(named_in_the_tree())
    assert len(paths) > 20 and not missing(paths)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_code_spans_exist(page):
    found = PATH.findall(page.read_text(encoding="utf-8"))
    assert not missing(path for path in found if not re.search(r"[A-Z]{4}", path))


def test_generated_parts_are_up_to_date():
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_sites_pages_link_to_each_other(tmp_path):
    """Links as `docs/build.py` rewrites them for the site; the site itself is built by `make docs`."""
    done = subprocess.run(
        [sys.executable, "docs/build.py", tmp_path / "pages"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "pages").glob("*.md"):
        for target in LINK.findall(prose(page)):
            path = target.partition("#")[0]
            assert re.match(r"[a-z]+:|#", target) or (page.parent / path).is_file(), (page.name, target)
