"""Stage `tables`: the page's numbers for a paper, as CSV and LaTeX, and BibTeX of what the runs build on.

python scripts/tables.py --recipes tiny --results results --output results/tables

Writes rates, comparisons and, for recipes with several seeds, seeds (each .csv and .tex), and references.bib.
"""

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.common.command_line import OutputFolder, ResultsFolder, run_stage
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.report import artifact_schema, tables
from gsm8k_grpo.report.metric_catalogue import headline_rates
from gsm8k_grpo.report.references import bibtex
from gsm8k_grpo.report.run_summary import summarise_rates


def main(*, recipes: list[str], seeded: list[str] = (), results: ResultsFolder, output: OutputFolder) -> None:
    """Runs the stage.

    Args:
      recipes: names of recipes, or of their runs
      seeded: names of recipes with several seeds
    """
    defaults = read_yaml(layout.ROOT / "config.yaml")
    runs = [summarise_rates(results, name, defaults) for name in recipes]
    evaluated = [run for run in runs if run["base"] and run["final"]]
    if not evaluated:
        raise PipelineError(
            f"--recipes: no run has both evaluations (base, final) below {results}; run the pipeline first"
        )
    across_file = results / "comparison-of-recipes.json"
    across = artifact_schema.read(across_file, "across") if len(runs) > 1 and across_file.is_file() else None
    seeds = {name: artifact_schema.read(layout.run_folder(results, name) / "seeds.json", "seeds") for name in seeded}
    shown = {key for run in evaluated for key in headline_rates(run["base"]["extraction"])}
    tests, over_seeds = tables.comparison_rows(runs, across), tables.seed_rows(seeds)
    texts = {
        "rates.csv": tables.csv(tables.rate_rows(runs)),
        "rates.tex": tables.rates_latex(runs),
        "comparisons.csv": tables.csv(tests),
        "comparisons.tex": tables.comparisons_latex(tests, shown),
        "references.bib": bibtex(evaluated),
    }
    if seeds:
        texts |= {"seeds.csv": tables.csv(over_seeds), "seeds.tex": tables.seeds_latex(over_seeds, shown)}
    for name, text in texts.items():
        files.write_text(output / name, text)
    print(f"{output}: {', '.join(texts)}")


if __name__ == "__main__":
    run_stage(main)
