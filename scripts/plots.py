r"""Stage `plots`: accuracy over checkpoints and the course of training, as SVG.

  python scripts/plots.py --metrics results/tiny/training/metrics.csv \
      --evaluations results/tiny/evaluations/{base,step-50,final}/metrics.json --output results/tiny/plots
"""

import argparse
from pathlib import Path

import pandas as pd

from gsm8k_grpo import checkpoints, files, plots
from gsm8k_grpo.errors import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", type=Path, required=True, help="metrics.csv of the training")
    parser.add_argument("--evaluations", type=Path, nargs="+", required=True, help="metrics.json, base first")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    metrics = pd.read_csv(arguments.metrics)
    evaluations = [files.read_json(path) for path in arguments.evaluations]
    steps = [checkpoints.step_of(evaluation["checkpoint"], int(metrics["step"].max())) for evaluation in evaluations]
    plots.accuracy(evaluations, steps, arguments.output / "accuracy.svg")
    plots.training(metrics, arguments.output / "training.svg")


if __name__ == "__main__":
    run_stage(main)
