r"""Stage `format_check`: how often the base model writes the recipe's tags, on dev rows, before any training.

  python scripts/format_check.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/dev.jsonl \
      --model results/models/tiny --output results/tiny/format_check.json

Samples one completion of each prompt, as training does. Writes the rates of tags and format, some completions to read
and, if the format never occurs, a warning that says what this means for GRPO.
"""

from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.command_line import ModelFolder, OutputFile, Settings, run_stage
from gsm8k_grpo.config.batches import rollout_batch
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.evaluation.format_check import summarise_format
from gsm8k_grpo.rewards.answers import Tags

EXAMPLES = 4  # the number of completions to read


def main(*, settings: Settings, rows: Path, model: ModelFolder, output: OutputFile) -> None:
    """Runs the stage.

    Args:
      rows: prompts to complete
    """
    settings = stage_settings(settings, "seed", "mesh", "prompt", "training")
    prompt_settings, training_settings, mesh_settings = settings["prompt"], settings["training"], settings["mesh"]
    rows = files.read_jsonl(rows, keys=("id", "prompt"))[: prompt_settings["format_check_rows"]]

    jax_setup.configure_jax()
    from gsm8k_grpo.evaluation.runner import BatchSampler, sample_texts
    from gsm8k_grpo.models.base_model import load_base_model
    from gsm8k_grpo.models.mesh import make_mesh

    mesh = make_mesh(mesh_settings["fsdp"], mesh_settings["tp"])
    base = load_base_model(model, mesh)
    batch_sampler = BatchSampler(
        base,
        base.model,
        mesh,
        gather_weights=mesh_settings["decode_weights"] == "gathered",
        sampling_settings=training_settings,
        seed=settings["seed"],
        batch_size=rollout_batch(training_settings),
        max_prompt_tokens=prompt_settings["max_tokens"],
    )
    completions = sample_texts(batch_sampler, [row["prompt"] for row in rows])
    summary = summarise_format(completions, Tags.of(prompt_settings))
    examples = [
        {"id": row["id"], "completion": completion}
        for row, completion in zip(rows[:EXAMPLES], completions[:EXAMPLES], strict=True)
    ]
    # The file has no provenance, so equal results are equal files and the report does not run again.
    files.write_json(output, {**summary, "examples": examples})
    exact = summary["exact"]
    print(f"exact format {exact['value']:.1%} ({exact['low']:.1%} to {exact['high']:.1%}, n = {exact['n']})")
    if summary["warning"]:
        print(f"WARNING: {summary['warning']}", flush=True)


if __name__ == "__main__":
    run_stage(main)
