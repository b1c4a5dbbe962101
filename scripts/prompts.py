r"""Stage `prompts`: each row as the model is asked, split into train, dev and test.

  python scripts/prompts.py --settings results/tiny/settings.yaml --train results/data/word-problems/train.jsonl \
      --test results/data/word-problems/test.jsonl --model results/models/tiny \
      --output results/tiny/prompts

Writes {train,dev,test}.jsonl (`id`, `prompt`, `answer`, `prompt_tokens`; train has `warm_start_prompt` where
`prompt.warm_start_layout` is set) and summary.json, which lists the ids of the
rows that are longer than `prompt.max_tokens` and so are left out.
"""

import functools
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import ModelFolder, OutputFolder, Settings, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.data.prompts import build_prompts, split_rows
from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.families import family_of


def main(*, settings: Settings, train: Path, test: Path, model: ModelFolder, output: OutputFolder) -> None:
    """Runs the stage.

    Args:
      train: normalised train rows; the last become dev
      test: normalised test rows
    """
    prompt_settings = stage_settings(settings, "prompt")["prompt"]
    manifest = files.read_json(model / "model.json")
    template = family_of(manifest["architecture"]).template
    tokenizer = tokenizers.load_recorded_tokenizer(model, manifest)
    count_tokens = functools.partial(tokenizers.count_prompt_tokens, tokenizer)
    train, test = (files.read_jsonl(path, ("id", "question", "answer")) for path in (train, test))
    prompts, summaries = {}, {}
    for split, rows in split_rows(train, test, prompt_settings["dev_rows"]).items():
        prompts[split], summaries[split] = build_prompts(rows, split, prompt_settings, template, count_tokens)
        kept, left_out = len(prompts[split]), len(summaries[split]["left_out"])
        longest = summaries[split]["longest_tokens"]
        print(f"{split}: {kept} prompts, longest {longest} tokens; {left_out} too long, left out")
    for split, rows in prompts.items():
        files.write_jsonl(output / f"{split}.jsonl", rows)
    summary = {"max_tokens": prompt_settings["max_tokens"], "splits": summaries, "provenance": collect_provenance()}
    files.write_json(output / "summary.json", summary)


if __name__ == "__main__":
    run_stage(main)
