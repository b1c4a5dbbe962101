"""Two completions beside each other on a terminal."""

import textwrap
from collections.abc import Mapping
from itertools import zip_longest

from gsm8k_grpo.report.numbers import escape_invisible
from gsm8k_grpo.rewards.answers import Tags

SEPARATOR = " │ "
NARROWEST_COLUMN = 24
REASONING, ANSWER, HEADING, RESET = "\x1b[36m", "\x1b[1;32m", "\x1b[1m", "\x1b[0m"


def side_by_side(texts: Mapping[str, str], width: int, tags: Tags | None) -> str:
    """Texts in columns, each below its heading. Invisible characters, such as a terminal's commands, become codes.

    Args:
      texts: by heading.
      width: of the terminal, in characters.
      tags: are coloured, and so are the headings; None gives plain text.
    """
    column = max(NARROWEST_COLUMN, (width + len(SEPARATOR)) // len(texts) - len(SEPARATOR))
    columns = [_wrapped(heading, column) + _wrapped(text, column) for heading, text in texts.items()]
    headings = max(len(_wrapped(heading, column)) for heading in texts)
    lines = []
    for number, cells in enumerate(zip_longest(*columns, fillvalue="")):
        padded = [cell.ljust(column) for cell in cells[:-1]] + [cells[-1]]
        if tags:
            padded = [f"{HEADING}{cell}{RESET}" if number < headings else _coloured(cell, tags) for cell in padded]
        lines.append(SEPARATOR.join(padded).rstrip())
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    """A text's lines, each of at most `width` characters."""
    lines = []
    for line in escape_invisible(text).split("\n"):
        lines += textwrap.wrap(line, width, break_on_hyphens=False) or [""]
    return lines


def _coloured(text: str, tags: Tags) -> str:
    """A line with its tags in colour. A tag that is wider than a column stays plain."""
    for colour, names in (
        (REASONING, (tags.reasoning_start, tags.reasoning_end)),
        (ANSWER, (tags.answer_start, tags.answer_end)),
    ):
        for tag in names:
            text = text.replace(tag, f"{colour}{tag}{RESET}")
    return text
