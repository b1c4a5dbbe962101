"""Where artifacts lie: one function for each folder below `results/`. The rules' patterns name the same paths."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
# What lies in results/ and results/logs/ beside the folders of recipes: no recipe may be named after it.
RESERVED_NAMES = ("data", "models", "logs", "records", "cache", "tables", "report.html", "comparison-of-recipes.json")
RESERVED_NAMES += ("accuracy-against-cost.svg", "failures", "settings", "report.log", "compare_recipes.log")
RESERVED_NAMES += ("export", "export-tunix", "export-gguf", "set-aside")  # which `make carry` leaves out


def dataset_folder(results: Path, dataset: str) -> Path:
    """The normalised rows of a data set and its dataset.json."""
    return results / "data" / dataset


def dataset_rows(results: Path, dataset: str, split: str) -> Path:
    """The data set's rows that a run's split comes from: dev rows are rows of train."""
    return dataset_folder(results, dataset) / ("test.jsonl" if split == "test" else "train.jsonl")


def model_folder(results: Path, model: str) -> Path:
    """A base model's weights, tokenizer and model.json."""
    return results / "models" / model


def run_folder(results: Path, run: str) -> Path:
    """All artifacts of one recipe, or of one of its runs."""
    return results / run


def settings_file(results: Path, run: str) -> Path:
    """The effective settings of a run."""
    return run_folder(results, run) / "settings.yaml"


def prompts_file(results: Path, run: str, split: str) -> Path:
    """The prompts of a run's split: `train`, `dev` or `test`."""
    return run_folder(results, run) / "prompts" / f"{split}.jsonl"


def training_folder(results: Path, run: str) -> Path:
    """What training wrote: checkpoints.json, metrics.csv, samples.jsonl, summary.json."""
    return run_folder(results, run) / "training"


def evaluation_folder(results: Path, run: str, checkpoint: str, on_dev: bool = False) -> Path:
    """One evaluation's completions.jsonl and metrics.json.

    Args:
      results: the folder of all artifacts.
      run: the run's name.
      checkpoint: `base`, `step-N`, `final` or `best`.
      on_dev: whether it is one of the evaluations that the best checkpoint is chosen on, beside those on test.
    """
    return run_folder(results, run) / ("evaluations-dev" if on_dev else "evaluations") / checkpoint
