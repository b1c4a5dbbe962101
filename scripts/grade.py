r"""Grades completions of any program (this pipeline, vLLM, TRL, an API) as the stage `evaluate` does.

  python scripts/grade.py --completions completions.jsonl --answers gold.jsonl --output graded

Completions are rows with `id` and `completion`. Gold answers are rows with `id` and `answer`: a number, or a solution
of GSM8K that ends in `#### 18`. Other keys are ignored. Writes rows.jsonl (verdicts) and metrics.json (rates).
"""

import time
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFolder, run_stage
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.evaluation import external
from gsm8k_grpo.evaluation.metrics import accuracy_rates, format_rate
from gsm8k_grpo.rewards.answers import Reasoning, Tags

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
    tags = Tags(*tags, Reasoning(*reasoning))
    if (tag := tags.find_overlap()) is not None:
        raise PipelineError(f"--tags: {tag!r} is a part of another tag; give four tags that do not contain each other")
    if min(reasoning) < 0 or not tags.reasoning.can_be_met():
        found = " ".join(map(str, reasoning))
        raise PipelineError(f"--reasoning: is {found}, expected two counts, such as 1 6, of which one is more than 0")
    inputs = (completions, answers)
    rows_file, metrics_file = output / "rows.jsonl", output / "metrics.json"
    if output.exists() and not output.is_dir():
        raise PipelineError(f"--output: {output} is a file, expected a folder; name another one")
    if {rows_file.resolve(), metrics_file.resolve()} & {path.resolve() for path in inputs}:
        raise PipelineError(f"--output: {output} would overwrite the graded files; name another folder")
    for option, path in zip(("--completions", "--answers"), inputs, strict=True):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise PipelineError(
                f"{option}: {path} is a pipe or device, which cannot be read twice to hash it; give a file"
            )
    started = time.monotonic()
    found, golds = external.read_completions(completions), external.read_golds(answers)
    external.require_matches(found, golds, inputs, subset)
    graded = external.grade_all(found, golds, tags)
    rates = accuracy_rates(graded)
    files.write_jsonl(rows_file, graded)
    seconds = time.monotonic() - started
    metrics = {
        "completions": {"path": str(completions), "sha256": files.sha256_file(completions)},
        "answers": {"path": str(answers), "sha256": files.sha256_file(answers)},
        "tags": list(tags.all()),
        "reasoning": list(reasoning),
        "rows": len(graded),
        "rows_without_completion": len(golds) - len(graded),
        **rates,
        "seconds": round(seconds, 3),
        "completions_per_second": round(len(graded) / seconds, 1),
        "provenance": collect_provenance(),
    }
    files.write_json(metrics_file, metrics)
    for name, rate in rates.items():
        print(format_rate(name, rate))


if __name__ == "__main__":
    run_stage(main)
