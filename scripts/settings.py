"""Stage `settings`: writes a recipe's effective settings to a file, for the report and for stages that run by hand.

python scripts/settings.py --settings '{"seed": 0, …}' --output results/tiny/settings.yaml
"""

import argparse
import json
from pathlib import Path

import yaml

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text of all blocks")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    settings = json.loads(arguments.settings)
    files.write_text(arguments.output, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100))


if __name__ == "__main__":
    run_stage(main)
