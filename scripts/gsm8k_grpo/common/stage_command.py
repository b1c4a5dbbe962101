"""The command line of scripts/stage.py, which the rules write (`stage` in rules/common.smk)."""

import argparse
from pathlib import Path


def parse_command(words: list[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """Reads the options of scripts/stage.py.

    Args:
      words: what follows `scripts/stage.py`; None takes this process's own.
      description: for --help.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="file for everything that the stage prints")
    parser.add_argument("--mark", type=Path, required=True, help="file that stays when the stage fails")
    parser.add_argument("--record", type=Path, required=True, help="file that says what the outputs were made from")
    parser.add_argument("--code", required=True, help="which code the stage runs: a text with a hash")
    parser.add_argument("--facts", nargs="*", default=[], help="what else the outputs depend on, as JSON texts")
    parser.add_argument("--inputs", type=Path, nargs="*", default=[], help="files that the stage reads")
    parser.add_argument("--outputs", type=Path, nargs="+", required=True, help="files that the stage must write")
    parser.add_argument("command", nargs="+", help="the stage itself, after --")
    return parser.parse_args(words)
