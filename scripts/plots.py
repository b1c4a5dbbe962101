r"""Stage `plots`: accuracy over checkpoints and the figures of training, as SVG.

  python scripts/plots.py --metrics results/tiny/training/metrics.csv \
      --selection results/tiny/evaluations-dev/{base,step-30,final}/metrics.json --best results/tiny/best.json \
      --evaluations results/tiny/evaluations/{base,final,best}/metrics.json --output results/tiny/plots
"""

from pathlib import Path

import pandas as pd

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFolder, run_stage
from gsm8k_grpo.report import plots


def main(*, metrics: Path, selection: list[Path], best: Path, evaluations: list[Path], output: OutputFolder) -> None:
    """Runs the stage.

    Args:
      metrics: metrics.csv of the training
      selection: metrics.json on dev, base first
      best: best.json, which names the checkpoint chosen on dev
      evaluations: metrics.json on test, base first
    """
    metrics = pd.read_csv(metrics)
    selection, reported = ([files.read_json(path) for path in paths] for paths in (selection, evaluations))
    plots.draw_accuracy(selection, files.read_json(best), reported, output / "accuracy.svg")
    plots.draw_training(metrics, output / "training.svg")


if __name__ == "__main__":
    run_stage(main)
