r"""Stage `plots`: accuracy over checkpoints and the figures of training, as SVG.

  python scripts/plots.py --metrics results/tiny/training/metrics.csv \
      --selection results/tiny/evaluations-dev/{base,step-30,final}/metrics.json --best results/tiny/best.json \
      --evaluations results/tiny/evaluations/{base,final,best}/metrics.json --output results/tiny/plots
"""

import argparse
from pathlib import Path

import pandas as pd

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.report import plots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", type=Path, required=True, help="metrics.csv of the training")
    parser.add_argument("--selection", type=Path, nargs="+", required=True, help="metrics.json on dev, base first")
    parser.add_argument("--best", type=Path, required=True, help="best.json, which names the checkpoint chosen on dev")
    parser.add_argument("--evaluations", type=Path, nargs="+", required=True, help="metrics.json on test, base first")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    metrics = pd.read_csv(arguments.metrics)
    selection, reported = (
        [files.read_json(path) for path in paths] for paths in (arguments.selection, arguments.evaluations)
    )
    plots.draw_accuracy(selection, files.read_json(arguments.best), reported, arguments.output / "accuracy.svg")
    plots.draw_training(metrics, arguments.output / "training.svg")


if __name__ == "__main__":
    run_stage(main)
