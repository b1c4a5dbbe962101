"""Stage `report`: one HTML page over the selected recipes, from their artifacts.

python scripts/report.py --recipes tiny --results results --output results/report.html

The page lists missing artifacts.
"""

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFile, ResultsFolder, run_stage
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.units import size_text
from gsm8k_grpo.report.page import render_page


def main(*, recipes: list[str], seeded: list[str] = (), results: ResultsFolder, output: OutputFile) -> None:
    """Runs the stage.

    Args:
      recipes: names of recipes, or of their runs
      seeded: names of recipes with several seeds
    """
    if not results.is_dir():
        raise PipelineError(f"--results: {results} is no folder; give the folder of all artifacts")
    page = render_page(results, recipes, seeded)
    files.write_text(output, page)
    print(f"{output}: {size_text(len(page.encode()))}")


if __name__ == "__main__":
    run_stage(main)
