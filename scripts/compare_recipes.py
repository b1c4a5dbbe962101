r"""Stage `compare_recipes`: each recipe's final checkpoint against every other's, on the rows that both answered, and
accuracy against cost as SVG.

  python scripts/compare_recipes.py --results results --recipes tiny-seed-0 tiny-seed-1 \
      --output results/comparison-of-recipes.json --plot results/accuracy-against-cost.svg
"""

import argparse
from pathlib import Path

import pandas as pd

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation import comparison
from gsm8k_grpo.evaluation.artifacts import first_completions, read_metrics
from gsm8k_grpo.report import plots, training_panels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of all artifacts")
    parser.add_argument("--recipes", nargs="+", required=True, help="names of recipes, or of their runs")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--plot", type=Path, required=True, help="SVG to write")
    arguments = parser.parse_args()
    verdicts = {recipe: read(arguments.results, recipe) for recipe in arguments.recipes}
    files.write_json(arguments.output, {**comparison.of_recipes(verdicts), "provenance": collect_provenance()})
    plots.cost({recipe: accuracy_and_cost(arguments.results, recipe) for recipe in arguments.recipes}, arguments.plot)


def accuracy_and_cost(results: Path, recipe: str) -> tuple[dict, dict]:
    """The rate of right answers of a recipe's final checkpoint, and what its training cost."""
    folder = results / recipe / "training"
    spent = training_panels.training_cost(files.read_json(folder / "summary.json"), pd.read_csv(folder / "metrics.csv"))
    return read_metrics(results, recipe)["final"]["answer_accuracy"], spent


def read(results: Path, recipe: str) -> dict[tuple, dict[str, bool]]:
    """The verdicts on each row's first completion of a recipe's final checkpoint, by id, question and gold answer.

    Raises:
      PipelineError: an artifact is not there, or completions and data do not belong together.
    """
    chosen = stage_settings(str(results / recipe / "settings.yaml"), "dataset", "evaluation")
    split = chosen["evaluation"]["split"]
    data = results / "data" / chosen["dataset"]["name"] / ("test.jsonl" if split == "test" else "train.jsonl")
    questions = {row["id"]: row["question"] for row in files.read_jsonl(data, ("id", "question"))}
    judged = comparison.verdict_keys(chosen["evaluation"]["extraction"])
    completions = results / recipe / "evaluations" / "final" / "completions.jsonl"
    found = {}
    for row in first_completions(completions, "answer", *judged.values()):
        if row["id"] not in questions:
            raise PipelineError(f"{completions}: {row['id']!r} is the id of no row of {data}; evaluate again")
        found[row["id"], questions[row["id"]], row["answer"]] = {name: row[key] for name, key in judged.items()}
    return found


if __name__ == "__main__":
    run_stage(main)
