r"""Stage `compare_recipes`: every two final checkpoints on their common rows, and accuracy against cost as SVG.

  python scripts/compare_recipes.py --results results --recipes tiny-seed-0 tiny-seed-1 \
      --output results/comparison-of-recipes.json --plot results/accuracy-against-cost.svg
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.evaluation.comparison import compare_recipes, read_verdicts
from gsm8k_grpo.report import plots
from gsm8k_grpo.report.training_figures import accuracy_and_cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of all artifacts")
    parser.add_argument("--recipes", nargs="+", required=True, help="names of recipes, or of their runs")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--plot", type=Path, required=True, help="SVG to write")
    arguments = parser.parse_args()
    results, recipes = arguments.results, arguments.recipes
    compared = compare_recipes({recipe: read_verdicts(results, recipe) for recipe in recipes})
    files.write_json(arguments.output, {**compared, "provenance": collect_provenance()})
    plots.draw_cost({recipe: accuracy_and_cost(results, recipe) for recipe in recipes}, arguments.plot)


if __name__ == "__main__":
    run_stage(main)
