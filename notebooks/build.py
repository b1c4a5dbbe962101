"""Writes the notebooks of this folder from their one source, notebook.md.j2.

  python notebooks/build.py

With `--check` it writes nothing and only says whether they are up to date; tests/notebooks does so.
"""

import argparse
import re
import sys
from pathlib import Path

import jinja2
import nbformat

FOLDER = Path(__file__).parent
SERVICES = ("kaggle_tpu", "colab")
BLOCK = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
SETTINGS_CELL = 1  # the first block; marked as papermill marks it


def notebook(service: str) -> str:
    """The notebook of a service, as JSON text."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), undefined=jinja2.StrictUndefined)
    text = environment.get_template("notebook.md.j2").render(service=service)
    cells = []
    for index, part in enumerate(BLOCK.split(text)):  # prose and blocks take turns
        make = nbformat.v4.new_code_cell if index % 2 else nbformat.v4.new_markdown_cell
        if part.strip():
            cells.append(make(part.strip("\n"), id=f"cell-{len(cells) + 1}"))
    cells[SETTINGS_CELL].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the notebooks are up to date")
    check = parser.parse_args().check
    stale = []
    for service in SERVICES:
        path, text = FOLDER / f"{service}.ipynb", notebook(service)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"notebooks/: {', '.join(stale)} differ from notebook.md.j2; run make generated", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
