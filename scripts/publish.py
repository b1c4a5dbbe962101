r"""Publishes a finished export on Hugging Face: the model, the adapters and the model card, in one commit.

  snakemake --cores 1 results/tiny/export/README.md
  python scripts/publish.py --recipe tiny --to OWNER/NAME

Makes the repository if there is none, private unless you say --public. It never overwrites a repository that has files
unless you say --replace. It needs a token with write access: HF_TOKEN, or `hf auth login`.
"""

from pathlib import Path

from gsm8k_grpo.common import layout
from gsm8k_grpo.common.command_line import ResultsFolder, run_stage
from gsm8k_grpo.huggingface.publishing import publish


def main(
    *, recipe: str, to: str, results: ResultsFolder = Path("results"), public: bool = False, replace: bool = False
) -> None:
    """Publishes.

    Args:
      recipe: name of an exported recipe, or of its run
      to: OWNER/NAME of the repository
      public: everyone can see a repository that is made
      replace: replace all files of a repository that has some; its history keeps them
    """
    export = layout.run_folder(results, recipe) / "export"
    print(f"published: {publish(export, to, public, replace)}")


if __name__ == "__main__":
    run_stage(main)
