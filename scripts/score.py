r"""Stage `score`: what each reward of the recipe gives to the evaluated completions, before and after training.

  python scripts/score.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/test.jsonl \
      --base results/tiny/evaluations/base/completions.jsonl \
      --final results/tiny/evaluations/final/completions.jsonl \
      --best results/tiny/evaluations/best/completions.jsonl --output results/tiny/rewards.jsonl

The rewards are those of training, on rows that training never saw: they show what is rewarded beside what is right.
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation.reward_scores import score_evaluations
from gsm8k_grpo.rewards.answers import Tags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs prompt and training")
    parser.add_argument("--rows", type=Path, required=True, help="prompts of the split")
    parser.add_argument("--base", type=Path, required=True, help="completions.jsonl of the base model")
    parser.add_argument("--final", type=Path, required=True, help="completions.jsonl of the final checkpoint")
    parser.add_argument("--best", type=Path, required=True, help="completions.jsonl of the checkpoint chosen on dev")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    settings = stage_settings(arguments.settings, "prompt", "training")
    completions = {name: getattr(arguments, name) for name in ("base", "final", "best")}
    prompts = files.read_jsonl(arguments.rows, ("id", "prompt", "answer"))
    tags = Tags(**settings["prompt"]["tags"])
    files.write_jsonl(arguments.output, score_evaluations(completions, prompts, settings["training"]["rewards"], tags))


if __name__ == "__main__":
    run_stage(main)
