"""Seconds to render the page, and its size, for recipes as large as the published ones.

  python benchmarks/report.py

It makes artifacts of three recipes (3,738 steps, 1,319 rows each; made-up texts, see tests/helpers/synthetic.py) in a
temporary folder, renders the page several times, and prints median and range of wall and processor seconds and the
size.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "helpers")]
import synthetic  # noqa: E402
from gsm8k_grpo.report.page import render_page  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=3, help="number of recipes")
    parser.add_argument("--repeats", type=int, default=5, help="times that the page is rendered")
    arguments = parser.parse_args()
    recipes = [f"recipe-{number}" for number in range(1, arguments.recipes + 1)]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        for recipe in recipes:
            synthetic.make(results, recipe)
        synthetic.compare_recipes(results, recipes)
        wall, processor, pages = [], [], set()
        for _ in range(arguments.repeats):
            started, used = time.perf_counter(), time.process_time()
            pages.add(render_page(results, recipes, []))
            wall.append(time.perf_counter() - started)
            processor.append(time.process_time() - used)
    (page,) = pages  # the same bytes each time
    for name, seconds in (("wall", wall), ("processor", processor)):
        print(f"{name:<9} {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"page      {len(page.encode()) / 1e6:.2f} MB, {len(recipes)} recipes of {synthetic.ROWS:,} rows")


if __name__ == "__main__":
    main()
