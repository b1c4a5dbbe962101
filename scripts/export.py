r"""Stage `export`: the final adapters merged into the base as a Hugging Face folder, and alone in PEFT's format.

If training changed all weights, there are no adapters: the export is the folder alone.

  python scripts/export.py --results results --recipe tiny --output results/tiny/export

Reads the artifacts of a finished recipe. Writes config.json, the tokenizer's files, generation_config.json,
safetensors, adapter/, base/ (if no hub has the base, such as a miniature's), NOTICE, README.md (the model card) and,
last, export.json (hashes of all files, and how far the logits of the written model are from those of the measured one).
"""

from pathlib import Path

from gsm8k_grpo.common import files, jax_setup, layout
from gsm8k_grpo.common.command_line import OutputFolder, ResultsFolder, run_stage
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.huggingface import export
from gsm8k_grpo.report import model_card


def main(*, results: ResultsFolder, recipe: str, output: OutputFolder) -> None:
    """Runs the stage.

    Args:
      recipe: name of a recipe, or of its run
    """
    export.require_finished(results, recipe)
    blocks = ("mesh", "dataset", "model", "prompt", "training", "evaluation")
    settings = stage_settings(str(layout.settings_file(results, recipe)), *blocks)
    facts = model_card.facts(results, recipe)
    jax_setup.configure_jax()

    def write(folder: Path) -> dict:
        manifest = export.write_model(folder, results, recipe, settings, output / "base")
        files.write_text(folder / "NOTICE", model_card.notice(facts))
        files.write_text(folder / "README.md", model_card.render(facts, manifest))
        return manifest

    export.replace_export(output, write)


if __name__ == "__main__":
    run_stage(main)
