r"""Stage `transfer_prompts`: the problems of another set as the model is asked, by the recipe's own prompt.

  python scripts/transfer_prompts.py --settings results/tiny/settings.yaml --rows results/data/svamp/test.jsonl \
      --model results/models/tiny --output results/tiny/transfer/svamp/prompts

Writes test.jsonl and summary.json as the stage `prompts` does. summary.json lists the rows that are longer than
`prompt.max_tokens` and so are left out.
"""

import functools
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import ModelFolder, OutputFolder, Settings, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.data.prompts import build_prompts
from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.families import family_of


def main(*, settings: Settings, rows: Path, model: ModelFolder, output: OutputFolder) -> None:
    """Runs the stage.

    Args:
      rows: normalised rows of the set
    """
    prompt_settings, name = stage_settings(settings, "prompt")["prompt"], rows.parent.name
    manifest = files.read_json(model / "model.json")
    template = family_of(manifest["architecture"]).template
    tokenizer = tokenizers.load_recorded_tokenizer(model, manifest)
    count_tokens = functools.partial(tokenizers.count_prompt_tokens, tokenizer)
    questions = files.read_jsonl(rows, ("id", "question", "answer"))
    prompts, summary = build_prompts(questions, name, prompt_settings, template, count_tokens)
    left_out = len(summary["left_out"])
    print(f"{name}: {len(prompts)} prompts, longest {summary['longest_tokens']} tokens; {left_out} too long, left out")
    files.write_jsonl(output / "test.jsonl", prompts)
    splits = {"max_tokens": prompt_settings["max_tokens"], "splits": {"test": summary}}
    files.write_json(output / "summary.json", {**splits, "provenance": collect_provenance()})


if __name__ == "__main__":
    run_stage(main)
