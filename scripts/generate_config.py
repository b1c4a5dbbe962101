"""Writes config.yaml, schemas/config.schema.json and docs/configuration.md from the model of all settings.

`make generated` runs this: python scripts/generate_config.py
"""

import argparse

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import exit_on_error
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.documentation import generated_files


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for path, text in generated_files().items():
        files.write_text(ROOT / path, text)


if __name__ == "__main__":
    exit_on_error(main)
