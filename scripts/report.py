"""Stage `report`: one HTML page over the selected recipes, from their artifacts.

python scripts/report.py --recipes tiny --results results --output results/report.html

The page lists missing artifacts.
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.report.page import render_page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", required=True, help="names of recipes, or of their runs")
    parser.add_argument("--seeded", nargs="*", default=[], help="names of recipes with several seeds")
    parser.add_argument("--results", type=Path, required=True, help="folder of all artifacts")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        raise PipelineError(f"--results: {arguments.results} is no folder; give the folder of all artifacts")
    page = render_page(arguments.results, arguments.recipes, arguments.seeded)
    files.write_text(arguments.output, page)
    print(f"{arguments.output}: {len(page.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    run_stage(main)
