r"""Stage `format_check`: how often the base model writes the recipe's tags, on dev rows, before any training.

  python scripts/format_check.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/dev.jsonl \
      --model results/models/tiny --output results/tiny/format_check.json

Samples one completion of each prompt, as training does. Writes the rates of tags and format, some completions to read
and, if the format never occurs and no warm start teaches it, a warning that says what this means for GRPO.
"""

from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.command_line import ModelFolder, OutputFile, Settings, run_stage
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation.format_check import summarise_format
from gsm8k_grpo.rewards.answers import Tags


def main(*, settings: Settings, rows: Path, model: ModelFolder, output: OutputFile) -> None:
    """Runs the stage.

    Args:
      rows: prompts to complete
    """
    settings = stage_settings(settings, "seed", "mesh", "prompt", "training")
    prompts = files.read_jsonl(rows, keys=("id", "prompt"))[: settings["prompt"]["format_check_rows"]]
    jax_setup.configure_jax()
    from gsm8k_grpo.evaluation.runner import sample_base_model

    completions = sample_base_model(model, [row["prompt"] for row in prompts], settings)
    ids, warm_start = [row["id"] for row in prompts], settings["training"]["warm_start_steps"] > 0
    summary = summarise_format(ids, completions, Tags.of(settings["prompt"]), warm_start)
    # The file has no provenance, so equal results are equal files and the report does not run again.
    files.write_json(output, summary)
    exact = summary["exact"]
    print(f"exact format {exact['value']:.1%} ({exact['low']:.1%} to {exact['high']:.1%}, n = {exact['n']})")
    if summary["warning"]:
        print(f"WARNING: {summary['warning']}", flush=True)


if __name__ == "__main__":
    run_stage(main)
