"""Gathers the pages of the site for Zensical, which reads one folder: `make docs` runs this, then `zensical build`.

  python docs/build.py .docs

The pages stay where a reader of the repository looks for them: README.md is the site's first page, results/README.md
its page `artifacts`. Links between pages are rewritten to match. A link to a file that is not on the site becomes plain
text. Only the standard library is needed.
"""

import re
import shutil
import sys
from pathlib import Path
from posixpath import normpath, relpath

ROOT = Path(__file__).parents[1]
# Pages from outside docs/, and their names on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "results/README.md": "artifacts.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
ASSETS = (".png", ".svg", ".css", ".js")
# Links and images, but not code: fenced blocks and code spans are matched first and left alone.
LINK = re.compile(
    r"(?P<code>^```.*?^```|`+[^`\n]+`+)|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", re.M | re.S
)


def pages() -> dict[str, str]:
    """Each file of the site: its path in the repository, and its path on the site."""
    files = sorted((ROOT / "docs").rglob("*"))
    inside = {path.relative_to(ROOT).as_posix() for path in files if path.suffix in (".md", *ASSETS)}
    return ELSEWHERE | {path: path.removeprefix("docs/") for path in inside}


def rewritten(text: str, page: str, sites: dict[str, str]) -> str:
    """A page's text with its relative links as they are on the site."""

    def link(found: re.Match) -> str:
        if found["code"] or re.match(r"[a-z]+:|#", found["target"]):
            return found[0]
        path, _, anchor = found["target"].partition("#")
        path = normpath(Path(page).parent.joinpath(path).as_posix())
        if path not in sites:
            return found["text"]
        target = relpath(sites[path], Path(sites[page]).parent.as_posix())
        return f"{found['image']}[{found['text']}]({target}{'#' if anchor else ''}{anchor})"

    return LINK.sub(link, text)


def main() -> None:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    sites = pages()
    for page, name in sites.items():
        output = folder / name
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix == ".md":
            output.write_text(rewritten((ROOT / page).read_text(encoding="utf-8"), page, sites), encoding="utf-8")
        else:
            shutil.copy2(ROOT / page, output)


if __name__ == "__main__":
    main()
