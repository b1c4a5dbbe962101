r"""Counts on which of a run's dev rows llama.cpp, with a GGUF file, answers as the trained model does here, greedily.

  make setup-gguf
  snakemake --cores 1 results/tiny/export-gguf/model.gguf
  python benchmarks/gguf_answers.py --recipe tiny --rows 300

Both sides get the same prompts, stop tokens and limit; llama.cpp gets the token ids. Rounding differs, so a completion
may part where two tokens are about as likely: it prints by how much the logits of the two differ there. OUTPUT gets a
row for each prompt that differs: `id`, `ours`, `llama` (completions), `place` (of the first other token), `margin`.
"""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from gsm8k_grpo.common import files, jax_setup, layout, llama_environment  # noqa: E402
from gsm8k_grpo.common.errors import exit_on_error  # noqa: E402
from gsm8k_grpo.config.settings_argument import stage_settings  # noqa: E402
from gsm8k_grpo.evaluation.grading import grade_row  # noqa: E402
from gsm8k_grpo.huggingface.export import FOLDERS  # noqa: E402
from gsm8k_grpo.huggingface.gguf_export import FILE  # noqa: E402
from gsm8k_grpo.rewards.answers import Tags  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all artifacts")
    parser.add_argument("--recipe", default="tiny", help="a trained recipe, or its run")
    parser.add_argument("--gguf", type=Path, help="the file; without it, the recipe's own")
    parser.add_argument("--rows", type=int, default=300, help="the first so many dev rows")
    parser.add_argument("--output", type=Path, help="jsonl to write: a row for each prompt that differs")
    arguments = parser.parse_args()
    run = layout.run_folder(arguments.results, arguments.recipe)
    gguf = arguments.gguf or run / FOLDERS["llama.cpp"] / FILE
    llama_environment.require_file(gguf)
    rows = files.read_jsonl(layout.prompts_file(arguments.results, arguments.recipe, "dev"))[: arguments.rows]
    settings = stage_settings(
        str(layout.settings_file(arguments.results, arguments.recipe)), "mesh", "model", "prompt", "evaluation"
    )
    jax_setup.configure_jax()
    warnings.simplefilter("ignore", DeprecationWarning)  # of `with mesh`, which Tunix needs
    ours, llama = complete(arguments.results, arguments.recipe, gguf, rows, settings)
    lines, parted = compare(rows, ours, llama, Tags.of(settings["prompt"]), settings["evaluation"]["extraction"])
    version = llama_environment.llama_versions("llama-cpp-python")["llama-cpp-python"]
    print(f"{len(rows):,} dev rows of {arguments.recipe}; {gguf}, llama-cpp-python {version}")
    print("\n".join(f"  {line}" for line in lines))
    if arguments.output:
        files.write_jsonl(arguments.output, parted)


def complete(
    results: Path, recipe: str, gguf: Path, rows: Sequence[Mapping], settings: Mapping
) -> tuple[list[tuple[list[int], str]], list]:
    """Greedy completions of rows: ours as (tokens, text), and llama.cpp's as `LlamaCompletion`."""
    from gsm8k_grpo.generation.cache_length import cache_tokens
    from gsm8k_grpo.generation.llama import Llama
    from gsm8k_grpo.generation.sampler import Sampler
    from gsm8k_grpo.models.base_model import load_base_model, load_for_evaluation
    from gsm8k_grpo.models.mesh import make_mesh

    mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
    base = load_base_model(layout.model_folder(results, settings["model"]["name"]), mesh)
    model = load_for_evaluation(base, layout.training_folder(results, recipe) / "checkpoints.json", "final", mesh)
    room, limit = settings["prompt"]["max_tokens"], settings["evaluation"]["max_completion_tokens"]
    prompts, slots = [row["prompt"] for row in rows], settings["evaluation"]["batch_size"]
    sampler = Sampler(model, base.tokenizer, cache_tokens(room, limit), mesh)
    with mesh:
        found = sampler(prompts, limit, room, list(base.stop_ids), slots=slots)
    llama = Llama(gguf, base.tokenizer, base.stop_ids, room, limit)
    ours = [([int(token) for token in tokens], text) for tokens, text in zip(found.tokens, found.text, strict=True)]
    others = [llama.complete(prompt) for prompt in prompts]
    llama.close()
    return ours, others


def compare(
    rows: Sequence[Mapping], ours: Sequence[tuple], llama: Sequence, tags: Tags, extraction: str
) -> tuple[list[str], list[dict]]:
    """What both sides have in common, as lines, and the rows whose completions differ.

    Args:
      rows: with `id` and `answer`.
      ours, llama: of `complete`.
      tags, extraction: how answers are read.
    """
    parted, same_answers, right = [], 0, {"ours": 0, "llama.cpp": 0}
    for row, (tokens, text), other in zip(rows, ours, llama, strict=True):
        graded = {
            "ours": grade_row(text, row, tags, extraction),
            "llama.cpp": grade_row(other.text, row, tags, extraction),
        }
        same_answers += graded["ours"][extraction] == graded["llama.cpp"][extraction]
        for side, verdicts in graded.items():
            right[side] += verdicts[f"{extraction}_correct"]
        if tokens != other.tokens:
            pairs = zip(tokens, other.tokens, strict=False)
            place = next(index for index, (one, two) in enumerate(pairs) if one != two)
            about = {"place": place, "margin": other.margins[place]}
            parted.append({"id": row["id"], "ours": text, "llama": other.text, **about})
    prompts = sum(each.same_prompt for each in llama)
    lines = [
        f"{prompts:,} prompts have the same tokens by llama.cpp's own tokenizer",
        f"{len(rows) - len(parted):,} completions are the same, token for token",
        f"{same_answers:,} answers are the same, as {extraction} reads them",
        f"{right['ours']:,} answers are right here, {right['llama.cpp']:,} in llama.cpp",
    ]
    if parted:
        widest = max(each["margin"] for each in parted)
        lines.append(f"where completions part, the logits of the two likeliest tokens are at most {widest:.2g} apart")
    return lines, parted


if __name__ == "__main__":
    exit_on_error(main)
