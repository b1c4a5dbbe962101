r"""Stage `compare_recipes`: every two final checkpoints on their common rows, and accuracy against cost as SVG.

  python scripts/compare_recipes.py --results results --recipes tiny-seed-0 tiny-seed-1 \
      --output results/comparison-of-recipes.json --plot results/accuracy-against-cost.svg
"""

from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFile, ResultsFolder, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.evaluation.comparison import compare_recipes, read_verdicts
from gsm8k_grpo.report import plots
from gsm8k_grpo.report.training_figures import accuracy_and_cost


def main(*, results: ResultsFolder, recipes: list[str], output: OutputFile, plot: Path) -> None:
    """Runs the stage.

    Args:
      recipes: names of recipes, or of their runs
      plot: SVG to write
    """
    compared = compare_recipes({recipe: read_verdicts(results, recipe) for recipe in recipes})
    files.write_json(output, {**compared, "provenance": collect_provenance()})
    plots.draw_cost({recipe: accuracy_and_cost(results, recipe) for recipe in recipes}, plot)


if __name__ == "__main__":
    run_stage(main)
