"""Stage `over_seeds`: mean and interval of each rate over the runs of a recipe with several seeds.

python scripts/over_seeds.py --results results --runs tiny-seed-0 tiny-seed-1 --output results/tiny/seeds.json
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.evaluation.artifacts import read_metrics
from gsm8k_grpo.evaluation.seeds import summarise_seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of all artifacts")
    parser.add_argument("--runs", nargs="+", required=True, help="names of the runs, one for each seed")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    metrics = {run: read_metrics(arguments.results, run) for run in arguments.runs}
    files.write_json(arguments.output, summarise_seeds(metrics))


if __name__ == "__main__":
    run_stage(main)
