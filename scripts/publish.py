r"""Publishes a finished export, with its model card: on Hugging Face in one commit, on Kaggle as one version.

  snakemake --cores 1 results/tiny/export/README.md
  python scripts/publish.py --recipe tiny --to OWNER/NAME                              # Hugging Face
  python scripts/publish.py --recipe tiny --to OWNER/MODEL/transformers/VARIATION      # Kaggle

  snakemake --cores 1 results/tiny/export-tunix/README.md
  python scripts/publish.py --recipe tiny --kind tunix --to OWNER/MODEL/jax/VARIATION

What is made is private, unless you say --public (on Kaggle, make it public on its page). What has files is left alone
unless you say --replace: on Hugging Face the commit takes the place of all files, and the history keeps them; on Kaggle
the upload becomes the newest version. It needs an account that may write there: HF_TOKEN, or `hf auth login`;
KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json.
"""

from pathlib import Path
from typing import Literal

from gsm8k_grpo.common import layout
from gsm8k_grpo.common.command_line import ResultsFolder, run_stage
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.huggingface import export, kaggle_publishing, publishing


def main(
    *,
    recipe: str,
    to: str,
    kind: Literal["transformers", "tunix"] = "transformers",
    results: ResultsFolder = Path("results"),
    public: bool = False,
    replace: bool = False,
) -> None:
    """Publishes.

    Args:
      recipe: name of an exported recipe, or of its run
      to: OWNER/NAME on Hugging Face, or OWNER/MODEL/FRAMEWORK/VARIATION on Kaggle
      kind: the export, by what loads it: results/RECIPE/export, or results/RECIPE/export-tunix
      public: everyone can see a repository that is made on Hugging Face
      replace: put the export in the place of what is published there
    """
    folder = layout.run_folder(results, recipe) / export.FOLDERS[kind]
    if to.count("/") == 3:
        if public:
            raise PipelineError("--public: Kaggle's client makes private models; make it public on its page")
        published = kaggle_publishing.publish(folder, to, kind, replace)
    else:
        published = publishing.publish(folder, to, public, replace)
    print(f"published: {published}")


if __name__ == "__main__":
    run_stage(main)
