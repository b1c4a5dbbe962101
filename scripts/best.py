r"""Stage `best`: chooses the best checkpoint on dev, so that no other one reads test.

  python scripts/best.py --metrics results/tiny/evaluations-dev/{base,step-30,final}/metrics.json \
      --output results/tiny/best.json
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.evaluation.metrics import format_rate
from gsm8k_grpo.evaluation.selection import choose_best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", type=Path, nargs="+", required=True, help="metrics.json of all, base first")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    best = choose_best([files.read_json(path) for path in arguments.metrics])
    files.write_json(arguments.output, best)
    print(f"best on {best['split']}: {best['checkpoint']}, {format_rate('answer_accuracy', best['answer_accuracy'])}")


if __name__ == "__main__":
    run_stage(main)
