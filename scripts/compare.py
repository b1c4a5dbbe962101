r"""Stage `compare`: base against final and against best, on the same rows (paired counts, exact McNemar test).

  python scripts/compare.py --settings results/tiny/settings.yaml \
      --base results/tiny/evaluations/base/completions.jsonl \
      --final results/tiny/evaluations/final/completions.jsonl \
      --best results/tiny/evaluations/best/completions.jsonl --output results/tiny/comparison.json
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation.comparison import compare_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs the block evaluation")
    parser.add_argument("--base", type=Path, required=True, help="completions.jsonl of the base model")
    parser.add_argument("--final", type=Path, required=True, help="completions.jsonl of the final checkpoint")
    parser.add_argument("--best", type=Path, required=True, help="completions.jsonl of the checkpoint chosen on dev")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    extraction = stage_settings(arguments.settings, "evaluation")["evaluation"]["extraction"]
    final, best = (compare_files(arguments.base, path, extraction) for path in (arguments.final, arguments.best))
    files.write_json(arguments.output, {**final, "best": best, "provenance": collect_provenance()})


if __name__ == "__main__":
    run_stage(main)
