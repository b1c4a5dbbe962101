"""Tables in docstrings, whose rows are tests."""

import inspect

from gsm8k_grpo.rewards.answers import Tags

SHORT = Tags("<r>", "</r>", "<a>", "</a>")  # the tags of these tables


def table(documented):
    """The rows of the table in a docstring, without its head."""
    lines = [line for line in inspect.getdoc(documented).splitlines() if line.startswith("|")]
    return [[cell.strip().replace(r"\n", "\n") for cell in line.strip("|").split("|")] for line in lines[1:]]
