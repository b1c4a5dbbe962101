r"""Stage `export_gguf`: the finished export as one GGUF file, for llama.cpp.

  make setup-gguf
  python scripts/export_gguf.py --results results --recipe tiny --output results/tiny/export-gguf

Reads results/RECIPE/export. Writes model.gguf (weights in `model.dtype`, tokenizer, chat template) by llama.cpp's own
converter, NOTICE and, last, export.json.
"""

import shutil
from pathlib import Path

from gsm8k_grpo.common import layout
from gsm8k_grpo.common.command_line import OutputFolder, ResultsFolder, run_stage
from gsm8k_grpo.huggingface import export, gguf_export


def main(*, results: ResultsFolder, recipe: str, output: OutputFolder) -> None:
    """Runs the stage.

    Args:
      recipe: name of an exported recipe, or of its run
    """
    source = layout.run_folder(results, recipe) / export.FOLDERS["transformers"]

    def write(folder: Path) -> dict:
        manifest = gguf_export.write_gguf(folder, source)
        shutil.copyfile(source / "NOTICE", folder / "NOTICE")
        return manifest

    export.replace_export(output, write)


if __name__ == "__main__":
    run_stage(main)
