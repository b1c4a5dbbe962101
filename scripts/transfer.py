r"""Stage `transfer`: base against final on sets of other problems: does what was learned carry over?

  python scripts/transfer.py --results results --run tiny --output results/tiny/transfer.json \
      --plot results/tiny/plots/transfer.svg

Reads settings.yaml, comparison.json and the evaluations of the run, and the rows of each set.
"""

from pathlib import Path

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.common.command_line import OutputFile, ResultsFolder, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation.transfer import compare_transfer
from gsm8k_grpo.report import plots
from gsm8k_grpo.report.transfer_sentence import transfer_sentence


def main(*, results: ResultsFolder, run: str, output: OutputFile, plot: Path) -> None:
    """Runs the stage.

    Args:
      run: name of the recipe, or of its run
      plot: SVG to write
    """
    settings = stage_settings(str(layout.settings_file(results, run)), "dataset", "prompt", "evaluation")
    compared = compare_transfer(results, run, settings)
    files.write_json(output, {**compared, "provenance": collect_provenance()})
    plots.draw_transfer(compared, plot)
    print(transfer_sentence(compared))


if __name__ == "__main__":
    run_stage(main)
