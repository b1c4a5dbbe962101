r"""Stage `score`: what each reward of the recipe gives to the evaluated completions, before and after training.

  python scripts/score.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/test.jsonl \
      --base results/tiny/evaluations/base/completions.jsonl \
      --final results/tiny/evaluations/final/completions.jsonl \
      --best results/tiny/evaluations/best/completions.jsonl --output results/tiny/rewards.jsonl

The rewards are those of training, on rows that training never saw: they show what is rewarded beside what is right.
"""

from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import Completions, OutputFile, Settings, run_stage
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation.reward_scores import score_evaluations
from gsm8k_grpo.rewards.answers import Tags


def main(
    *, settings: Settings, rows: Path, base: Completions, final: Completions, best: Completions, output: OutputFile
) -> None:
    """Runs the stage.

    Args:
      rows: prompts of the split
    """
    settings = stage_settings(settings, "prompt", "training")
    completions = {"base": base, "final": final, "best": best}
    prompts = files.read_jsonl(rows, ("id", "prompt", "answer"))
    tags = Tags.of(settings["prompt"])
    files.write_jsonl(output, score_evaluations(completions, prompts, settings["training"], tags))


if __name__ == "__main__":
    run_stage(main)
