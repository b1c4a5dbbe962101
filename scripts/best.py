r"""Stage `best`: chooses the best checkpoint on dev, so that no other one reads test.

  python scripts/best.py --metrics results/tiny/evaluations-dev/{base,step-30,final}/metrics.json \
      --output results/tiny/best.json
"""

from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFile, run_stage
from gsm8k_grpo.evaluation.best_checkpoint import choose_best
from gsm8k_grpo.evaluation.metrics import format_rate


def main(*, metrics: list[Path], output: OutputFile) -> None:
    """Runs the stage.

    Args:
      metrics: metrics.json of all, base first
    """
    best = choose_best([files.read_json(path) for path in metrics])
    files.write_json(output, best)
    print(f"best on {best['split']}: {best['checkpoint']}, {format_rate('answer_accuracy', best['answer_accuracy'])}")


if __name__ == "__main__":
    run_stage(main)
