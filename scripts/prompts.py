r"""Stage `prompts`: each row as the model is asked, split into train, dev and test.

  python scripts/prompts.py --settings results/tiny/settings.yaml --train results/data/word-problems/train.jsonl \
      --test results/data/word-problems/test.jsonl --model results/models/tiny \
      --output results/tiny/prompts

Writes {train,dev,test}.jsonl (`id`, `prompt`, `answer`, `prompt_tokens`) and summary.json, which lists the ids of the
rows that are longer than `prompt.max_tokens` and so are left out.
"""

import argparse
import functools
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.data.prompts import build_prompts, split_rows
from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.families import family_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs the block prompt")
    parser.add_argument("--train", type=Path, required=True, help="normalised train rows; the last become dev")
    parser.add_argument("--test", type=Path, required=True, help="normalised test rows")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model, for its chat template")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    prompt_settings = stage_settings(arguments.settings, "prompt")["prompt"]
    template = family_of(files.read_json(arguments.model / "model.json")["architecture"]).template
    tokenizer = tokenizers.load_tokenizer(arguments.model / "tokenizer.model", template)
    count_tokens = functools.partial(tokenizers.count_prompt_tokens, tokenizer)
    train, test = (files.read_jsonl(path, ("id", "question", "answer")) for path in (arguments.train, arguments.test))
    prompts, summaries = {}, {}
    for split, rows in split_rows(train, test, prompt_settings["dev_rows"]).items():
        prompts[split], summaries[split] = build_prompts(rows, split, prompt_settings, template, count_tokens)
        kept, left_out = len(prompts[split]), len(summaries[split]["left_out"])
        longest = summaries[split]["longest_tokens"]
        print(f"{split}: {kept} prompts, longest {longest} tokens; {left_out} too long, left out")
    for split, rows in prompts.items():
        files.write_jsonl(arguments.output / f"{split}.jsonl", rows)
    summary = {"max_tokens": prompt_settings["max_tokens"], "splits": summaries, "provenance": collect_provenance()}
    files.write_json(arguments.output / "summary.json", summary)


if __name__ == "__main__":
    run_stage(main)
