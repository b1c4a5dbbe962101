r"""Stage `compare`: base against final on the same rows: paired counts, difference with interval, exact McNemar test.

  python scripts/compare.py --settings results/tiny/settings.yaml \
      --base results/tiny/evaluations/base/completions.jsonl \
      --final results/tiny/evaluations/final/completions.jsonl --output results/tiny/comparison.json
"""

import argparse
from pathlib import Path

from gsm8k_grpo import files, runtime, settings, stats
from gsm8k_grpo.errors import PipelineError, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs the block evaluation")
    parser.add_argument("--base", type=Path, required=True, help="the base model's completions.jsonl")
    parser.add_argument("--final", type=Path, required=True, help="the final checkpoint's completions.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    extraction = settings.stage_settings(arguments.settings, "evaluation")["evaluation"]["extraction"]
    # With several completions a prompt, the first of each: McNemar's test is of one verdict a row.
    base, final = (
        [row for row in files.read_jsonl(path, ("id", "sample")) if row["sample"] == 0]
        for path in (arguments.base, arguments.final)
    )
    if [row["id"] for row in base] != [row["id"] for row in final]:
        raise PipelineError(f"{arguments.base} and {arguments.final}: not the same rows; evaluate both again")
    judged = {
        "answer": f"{extraction}_correct",
        "strict": "strict_correct",
        "flexible": "flexible_correct",
        "cascade": "cascade_correct",
        "partial": "partial_correct",
        "format": "format_correct",
    }
    compared = {
        name: stats.paired([row[key] for row in base], [row[key] for row in final]) for name, key in judged.items()
    }
    files.write_json(arguments.output, {**compared, "provenance": runtime.provenance()})


if __name__ == "__main__":
    run_stage(main)
