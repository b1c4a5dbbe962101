r"""Stage `compare`: base against final, and against best, on the same rows: paired counts, exact McNemar test.

  python scripts/compare.py --settings results/tiny/settings.yaml \
      --base results/tiny/evaluations/base/completions.jsonl \
      --final results/tiny/evaluations/final/completions.jsonl \
      --best results/tiny/evaluations/best/completions.jsonl --output results/tiny/comparison.json
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation import comparison, stats
from gsm8k_grpo.evaluation.artifacts import first_completions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs the block evaluation")
    parser.add_argument("--base", type=Path, required=True, help="the base model's completions.jsonl")
    parser.add_argument("--final", type=Path, required=True, help="the final checkpoint's completions.jsonl")
    parser.add_argument("--best", type=Path, required=True, help="the completions.jsonl of the one chosen on dev")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    extraction = stage_settings(arguments.settings, "evaluation")["evaluation"]["extraction"]
    final, best = (paired(arguments.base, path, extraction) for path in (arguments.final, arguments.best))
    files.write_json(arguments.output, {**final, "best": best, "provenance": collect_provenance()})


def paired(base_file: Path, trained_file: Path, extraction: str) -> dict:
    """Each verdict of `evaluation.grade`, before against after, as `stats.paired`.

    With several completions a prompt, the first of each: McNemar's test is of one verdict a row.

    Raises:
      PipelineError: not the same rows.
    """
    base, trained = (first_completions(path) for path in (base_file, trained_file))
    if [row["id"] for row in base] != [row["id"] for row in trained]:
        raise PipelineError(f"{base_file} and {trained_file}: not the same rows; evaluate both again")
    return {
        name: stats.paired_comparison([row[key] for row in base], [row[key] for row in trained])
        for name, key in comparison.verdict_keys(extraction).items()
    }


if __name__ == "__main__":
    run_stage(main)
