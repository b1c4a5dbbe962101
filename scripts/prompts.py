r"""Stage `prompts`: each row as the model is asked, split into train, dev and test.

  python scripts/prompts.py --settings results/tiny/settings.yaml --train results/data/word-problems/train.jsonl \
      --test results/data/word-problems/test.jsonl --model results/models/tiny \
      --output results/tiny/prompts

Writes {train,dev,test}.jsonl (`id`, `prompt`, `answer`, `prompt_tokens`) and summary.json. Rows longer than
`prompt.max_tokens` are listed there by id, never cut.
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.data.prompts import build_prompt
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
    chosen = stage_settings(arguments.settings, "prompt")["prompt"]
    template = family_of(files.read_json(arguments.model / "model.json")["architecture"]).template
    tokenizer = tokenizers.load_tokenizer(arguments.model / "tokenizer.model", template)
    keys = ("id", "question", "answer")
    train, test = files.read_jsonl(arguments.train, keys), files.read_jsonl(arguments.test, keys)
    if len(train) <= chosen["dev_rows"]:
        raise PipelineError(
            f"prompt.dev_rows: holds out {chosen['dev_rows']} of the {len(train)} train rows, which leaves none to "
            "train on; hold out fewer"
        )
    splits = {"train": train[: -chosen["dev_rows"]], "dev": train[-chosen["dev_rows"] :], "test": test}
    summary = {"max_tokens": chosen["max_tokens"], "splits": {}}
    written = {}
    for split, rows in splits.items():
        kept, too_long, longest = [], [], 0
        for row in rows:
            prompt = build_prompt(chosen["system"], row["question"], template)
            tokens = tokenizers.count_prompt_tokens(tokenizer, prompt)
            if tokens > chosen["max_tokens"]:
                too_long.append({"id": row["id"], "prompt_tokens": tokens})
                continue
            longest = max(longest, tokens)
            kept.append({"id": row["id"], "prompt": prompt, "answer": row["answer"], "prompt_tokens": tokens})
        if not kept:
            raise PipelineError(
                f"prompt.max_tokens: none of the {len(rows)} {split} prompts fits into {chosen['max_tokens']} tokens; "
                f"the shortest takes {min(row['prompt_tokens'] for row in too_long)}"
            )
        written[split] = kept
        summary["splits"][split] = {"rows": len(kept), "longest_tokens": longest, "left_out": too_long}
        print(f"{split}: {len(kept)} prompts, longest {longest} tokens; {len(too_long)} too long, left out")
    for split, rows in written.items():
        files.write_jsonl(arguments.output / f"{split}.jsonl", rows)
    files.write_json(arguments.output / "summary.json", {**summary, "provenance": collect_provenance()})


if __name__ == "__main__":
    run_stage(main)
