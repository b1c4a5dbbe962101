r"""Stage `export_tunix`: the finished export as a checkpoint that Tunix loads by itself, with the model card.

  python scripts/export_tunix.py --results results --recipe tiny --output results/tiny/export-tunix

Reads results/RECIPE/export. Writes STEP/model_params (Orbax), the tokenizer's files, generation_config.json, NOTICE,
README.md (the model card, with the code that loads it) and, last, export.json.
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
      recipe: name of an exported recipe, or of its run
    """
    source = layout.run_folder(results, recipe) / export.FOLDERS["transformers"]
    export.exported_files(source)
    settings = stage_settings(str(layout.settings_file(results, recipe)), "mesh", "model")
    facts = model_card.facts(results, recipe)
    jax_setup.configure_jax()
    from gsm8k_grpo.huggingface import tunix_export

    def write(folder: Path) -> dict:
        manifest = tunix_export.write_checkpoint(folder, source, results, settings)
        files.write_text(folder / "README.md", model_card.render(facts, manifest))
        return manifest

    export.replace_export(output, write)


if __name__ == "__main__":
    run_stage(main)
