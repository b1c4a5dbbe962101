r"""Stage `score`: what each reward of the recipe gives to the evaluated completions, before and after training.

  python scripts/score.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/test.jsonl \
      --base results/tiny/evaluations/base/completions.jsonl \
      --final results/tiny/evaluations/final/completions.jsonl \
      --best results/tiny/evaluations/best/completions.jsonl --output results/tiny/rewards.jsonl

The rewards are those that training sums, on rows that it never saw: what is rewarded, beside what is right.
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation.artifacts import first_completions
from gsm8k_grpo.rewards import scoring
from gsm8k_grpo.rewards.answers import Tags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs prompt and training")
    parser.add_argument("--rows", type=Path, required=True, help="prompts of the split")
    parser.add_argument("--base", type=Path, required=True, help="the base model's completions.jsonl")
    parser.add_argument("--final", type=Path, required=True, help="the final checkpoint's completions.jsonl")
    parser.add_argument("--best", type=Path, required=True, help="the completions.jsonl of the one chosen on dev")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    chosen = stage_settings(arguments.settings, "prompt", "training")
    names, tags = chosen["training"]["rewards"], Tags(**chosen["prompt"]["tags"])
    prompts = {row["id"]: row for row in files.read_jsonl(arguments.rows, ("id", "prompt", "answer"))}
    scored = {name: score(getattr(arguments, name), prompts, names, tags) for name in ("base", "final", "best")}
    for name in ("final", "best"):
        if scored["base"].keys() != scored[name].keys():
            other = getattr(arguments, name)
            raise PipelineError(f"{arguments.base} and {other}: not the same rows; evaluate both again")
    rows = [{"id": identity} | {name: given[identity] for name, given in scored.items()} for identity in scored["base"]]
    files.write_jsonl(arguments.output, rows)


def score(path: Path, prompts: dict[str, dict], names: tuple[str, ...], tags: Tags) -> dict[str, dict[str, float]]:
    """Each reward of each prompt's first completion, by the prompt's id.

    Args:
      path: a completions.jsonl.
      prompts: rows with `id`, `prompt` and `answer`, by id.
      names: of the rewards.
      tags: what rewards look for.

    Raises:
      PipelineError: a completion of no prompt, or a fault of a reward of the user's own.
    """
    completions = first_completions(path, "completion")
    unknown = [row["id"] for row in completions if row["id"] not in prompts]
    if unknown:
        raise PipelineError(f"{path}: {unknown[0]!r} is the id of no prompt; make prompts and evaluations again")
    rows = [prompts[row["id"]] for row in completions]
    given = scoring.score(names, rows, [row["completion"] for row in completions], tags)
    return {row["id"]: {name: values[index] for name, values in given.items()} for index, row in enumerate(rows)}


if __name__ == "__main__":
    run_stage(main)
