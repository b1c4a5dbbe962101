"""Stage `over_seeds`: mean and interval of each rate over the runs of a recipe with several seeds.

python scripts/over_seeds.py --results results --runs tiny-seed-0 tiny-seed-1 --output results/tiny/seeds.json
"""

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFile, ResultsFolder, run_stage
from gsm8k_grpo.evaluation.artifact_reading import read_metrics
from gsm8k_grpo.evaluation.seeds import summarise_seeds


def main(*, results: ResultsFolder, runs: list[str], output: OutputFile) -> None:
    """Runs the stage.

    Args:
      runs: names of the runs, one for each seed
    """
    metrics = {run: read_metrics(results, run) for run in runs}
    files.write_json(output, summarise_seeds(metrics))


if __name__ == "__main__":
    run_stage(main)
