"""Pairs of completions as data of the page: chosen fairly, with visible text only, packed to fit."""

import base64
import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence

from gsm8k_grpo.evaluation.comparison import OUTCOMES
from gsm8k_grpo.report import numbers
from gsm8k_grpo.rewards.answers import READINGS

OUTCOME_NAMES = tuple(OUTCOMES.values())
# The keys that the page needs in a row of completions.jsonl.
KEYS = ("completion", "answer", "tokens", "stop_reason", "partial_correct", "format_correct")
KEYS += (*READINGS, *(f"{name}_correct" for name in READINGS))


def balanced_sample(pairs: list[dict], count: int) -> list[dict]:
    """At most `count` pairs in their order, with equally many of each outcome of `final` as far as there are."""
    left, chosen = count, []
    by_outcome = [
        [index for index, pair in enumerate(pairs) if pair["outcomes"]["final"] == name] for name in OUTCOME_NAMES
    ]
    for position, indices in enumerate(sorted(by_outcome, key=len)):
        share = indices[: left // (len(by_outcome) - position)]
        chosen += share
        left -= len(share)
    return [pairs[index] for index in sorted(chosen)]


def page_row(pair: dict, prompt: str, question: str, rewards: Mapping) -> dict:
    """One pair as the page's script reads it: short keys, every character visible.

    Args:
      pair: of `comparison.pair_rows`.
      prompt: the whole prompt.
      question: the part of the prompt that differs from row to row; empty if unknown.
      rewards: the rewards of each side by name; empty if unknown.
    """
    prompt, question = numbers.shorten_visible(prompt), numbers.shorten_visible(question)
    start = prompt.find(question) if question else -1
    return {
        "id": numbers.shorten_visible(str(pair["id"])),
        "o": [OUTCOME_NAMES.index(outcome) for outcome in pair["outcomes"].values()],
        "p": prompt,
        "q": [start, start + len(question)] if start >= 0 else [0, len(prompt)],
        "g": numbers.shorten_visible(str(pair["sides"]["base"]["answer"])),
        "s": [_side(graded, rewards.get(name, {})) for name, graded in pair["sides"].items()],
    }


def _side(graded: dict, rewards: Mapping) -> dict:
    return {
        "c": numbers.shorten_visible(graded["completion"]),
        "r": [None if graded[name] is None else numbers.shorten_visible(graded[name]) for name in READINGS],
        "k": [int(graded[f"{name}_correct"]) for name in (*READINGS, "partial", "format")],
        "t": graded["tokens"],
        "l": int(graded["stop_reason"] == "limit"),
        "w": [round(value, 4) for value in rewards.values()],
    }


def fixed_example(pairs: list[dict], make_row: Callable[[dict], dict], tags: Sequence[str]) -> dict | None:
    """The shortest row that training fixed, to read without the browser; None where it fixed none.

    Args:
      pairs: of `comparison.pair_rows`.
      make_row: makes a `page_row` of a pair.
      tags: the four tags in the order of a completion, every character visible.

    Returns:
      `id`, `question`, `gold`, and `before` and `after`: the completions as `tagged_parts`.
    """
    fixed = [pair for pair in pairs if pair["outcomes"]["final"] == OUTCOMES[False, True]]
    if not fixed:
        return None
    # A row's question is not at hand, but completions that are short have short questions.
    pair = min(fixed, key=lambda each: sum(len(each["sides"][side]["completion"]) for side in ("base", "final")))
    row, (base, final) = make_row(pair), (list(pair["sides"]).index(side) for side in ("base", "final"))
    return {
        "id": row["id"],
        "question": row["p"][slice(*row["q"])],
        "gold": row["g"],
        "before": tagged_parts(row["s"][base]["c"], tags),
        "after": tagged_parts(row["s"][final]["c"], tags),
    }


def tagged_parts(text: str, tags: Sequence[str]) -> list[tuple[str, str]]:
    """A completion in pieces, as completions.js colours it: (`tag`, `reasoning`, `answer` or nothing, piece)."""
    reasoning_start, _, answer_start, _ = tags
    inside, parts = "", []
    for piece in re.split(f"({'|'.join(map(re.escape, tags))})", text):
        if piece in tags:
            parts.append(("tag", piece))
            inside = {reasoning_start: "reasoning", answer_start: "answer"}.get(piece, "")
        elif piece:
            parts.append((inside, piece))
    return parts


def pack(value: object) -> str:
    """JSON as base64 of gzip. Equal values give equal text, and HTML finds no markup in it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 6, mtime=0)).decode()


def pack_pairs(
    pairs: list[dict], limit: int | None, budget_bytes: int, settings: dict, make_row: Callable[[dict], dict]
) -> tuple[list[dict], str]:
    """Packs as many pairs as fit.

    Args:
      pairs: of `comparison.pair_rows`.
      limit: the most pairs to pack; None is all.
      budget_bytes: the longest packed text; if all pairs take more, a `balanced_sample` is packed.
      settings: what the page's script needs beside the rows.
      make_row: makes a `page_row` of a pair.

    Returns:
      the packed pairs and the text.
    """
    shown = pairs if limit is None else balanced_sample(pairs, limit)
    while True:
        text = pack({"settings": settings, "rows": [make_row(pair) for pair in shown]})
        if len(text) <= budget_bytes or not shown:
            return shown, text
        fitting = int(0.95 * len(shown) * max(0, budget_bytes) / len(text))
        shown = balanced_sample(shown, min(len(shown) - 1, fitting))
