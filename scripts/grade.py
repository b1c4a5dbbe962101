r"""Grades completions of any program (this pipeline, vLLM, TRL, an API) as the stage `evaluate` does.

  python scripts/grade.py --completions completions.jsonl --answers gold.jsonl --output graded

Completions are rows with `id` and `completion`. Gold answers are rows with `id` and `answer`: a number, or a solution
of GSM8K that ends in `#### 18`. Other keys are ignored. Writes rows.jsonl (verdicts) and metrics.json (rates).
"""

from pathlib import Path

from gsm8k_grpo.common.command_line import OutputFolder, run_stage
from gsm8k_grpo.evaluation import external
from gsm8k_grpo.evaluation.metrics import format_rate
from gsm8k_grpo.rewards.answers import Reasoning

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def main(
    *,
    completions: Path,
    answers: Path,
    output: OutputFolder,
    tags: tuple[str, str, str, str] = TAGS,
    reasoning: tuple[int, int] = (Reasoning.calculations, Reasoning.words),
    subset: bool = False,
) -> None:
    """Runs the stage.

    Args:
      completions: jsonl with id and completion
      answers: jsonl with id and answer
      tags: start and end tag of the reasoning and of the answer
      reasoning: calculations and different words, either of which is enough reasoning; 0 does not count
      subset: allow gold answers without a completion
    """
    tags = external.parse_tags(tags, reasoning)
    external.require_files(completions, answers, output)
    for name, rate in external.grade_files(completions, answers, output, tags, subset).items():
        print(format_rate(name, rate))


if __name__ == "__main__":
    run_stage(main)
