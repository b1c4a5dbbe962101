r"""Stage `format_check`: does the base model write the recipe's tags at all? Asked before training, on dev rows.

  python scripts/format_check.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/dev.jsonl \
      --model results/models/tiny --output results/tiny/format_check.json

Samples as training will sample, one completion a prompt. Writes the rates of tags and format, some completions to read,
and, when the format never occurs, a warning that says what that means for GRPO.
"""

import argparse
from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation.format_check import summarise_format
from gsm8k_grpo.rewards.answers import Tags

SHOWN = 4  # completions to read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--settings",
        required=True,
        help="JSON text or a settings.yaml; needs the blocks seed, mesh, prompt and training",
    )
    parser.add_argument("--rows", type=Path, required=True, help="prompts to ask")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    chosen = stage_settings(arguments.settings, "seed", "mesh", "prompt", "training")
    prompt, sampling = chosen["prompt"], chosen["training"]
    rows = files.read_jsonl(arguments.rows, keys=("id", "prompt"))[: prompt["format_check_rows"]]

    jax_setup.configure_jax()
    from gsm8k_grpo.generation.batches import Decoding, complete_batch, plan_batches
    from gsm8k_grpo.generation.cache_size import cache_tokens
    from gsm8k_grpo.generation.sampler import Sampler
    from gsm8k_grpo.models.base_model import load_base_model
    from gsm8k_grpo.models.mesh import make_mesh

    mesh = make_mesh(chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    loaded = load_base_model(arguments.model, mesh)
    batch_size, limit = sampling["micro_batch_prompts"] * sampling["num_generations"], sampling["max_completion_tokens"]
    cache = cache_tokens(prompt["max_tokens"], limit)
    gather = chosen["mesh"]["decode_weights"] == "gathered"
    sampler = Sampler(loaded.model, loaded.tokenizer, cache, mesh, gather)
    decoding = Decoding(sampling["temperature"], sampling["top_k"], sampling["top_p"], chosen["seed"])
    asked = [row["prompt"] for row in rows]
    completions: dict[int, str] = {}
    for batch in plan_batches(asked, 1, batch_size):
        done = complete_batch(
            sampler, asked, batch, batch_size, decoding, prompt["max_tokens"], limit, loaded.stop_ids, mesh
        )
        completions.update({index: each.text for (index, _), each in zip(batch, done, strict=True)})
    found = summarise_format([completions[index] for index in range(len(rows))], Tags(**prompt["tags"]))
    examples = [{"id": row["id"], "completion": completions[index]} for index, row in enumerate(rows[:SHOWN])]
    # No provenance here: the same answer is the same file, and training does not run again for it.
    files.write_json(arguments.output, {**found, "examples": examples})
    exact = found["exact"]
    print(f"exact format {exact['value']:.1%} ({exact['low']:.1%} to {exact['high']:.1%}, n = {exact['n']})")
    if found["warning"]:
        print(f"WARNING: {found['warning']}", flush=True)


if __name__ == "__main__":
    run_stage(main)
