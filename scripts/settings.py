"""Stage `settings`: writes a recipe's effective settings to a file, for the report and for stages that run by hand.

python scripts/settings.py --settings results/logs/settings/FILE.json --output results/tiny/settings.yaml
"""

import yaml

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFile, Settings, run_stage
from gsm8k_grpo.config.settings_argument import read_settings


def main(*, settings: Settings, output: OutputFile) -> None:
    """Runs the stage."""
    files.write_text(output, yaml.safe_dump(read_settings(settings), sort_keys=False, allow_unicode=True, width=100))


if __name__ == "__main__":
    run_stage(main)
