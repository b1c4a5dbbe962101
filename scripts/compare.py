r"""Stage `compare`: base against final and against best, on the same rows (exact McNemar tests, one of them primary).

  python scripts/compare.py --settings results/tiny/settings.yaml \
      --base results/tiny/evaluations/base/completions.jsonl \
      --final results/tiny/evaluations/final/completions.jsonl \
      --best results/tiny/evaluations/best/completions.jsonl --output results/tiny/comparison.json
"""

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import Completions, OutputFile, Settings, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation.comparison import compare_checkpoints, read_checkpoints
from gsm8k_grpo.rewards.answers import Tags


def main(*, settings: Settings, base: Completions, final: Completions, best: Completions, output: OutputFile) -> None:
    """Runs the stage."""
    settings = stage_settings(settings, "prompt", "evaluation")
    tags, extraction = Tags.of(settings["prompt"]), settings["evaluation"]["extraction"]
    compared = compare_checkpoints(*read_checkpoints(base, final, best, tags, extraction), extraction)
    files.write_json(output, {**compared, "provenance": collect_provenance()})


if __name__ == "__main__":
    run_stage(main)
