"""Completions before and after, paired by row and packed for the page."""

import base64
import gzip
import json
from collections.abc import Callable, Mapping

from gsm8k_grpo.report import numbers

OUTCOMES = ("fixed", "broken", "wrong both times", "right both times")
READINGS = ("strict", "flexible", "cascade")
# What a row of completions.jsonl must have to be shown.
KEYS = ("completion", "answer", "tokens", "stop_reason", "partial_correct", "format_correct")
KEYS += (*READINGS, *(f"{name}_correct" for name in READINGS))


def pair_rows(graded: Mapping[str, list[dict]], judged: str) -> list[dict]:
    """Rows of several evaluations side by side, each with what became of it.

    Args:
      graded: rows of completions.jsonl, one a prompt, by name: `base`, `final` and, where it is another, `best`. Rows
        that not all of them have, with the same gold answer, are left out.
      judged: the key whose verdict decides, such as `strict_correct`.

    Returns:
      `id`, `sides` (the rows by name) and `outcomes` (of each trained model against the base, by name).
    """
    by_id = {name: {row["id"]: row for row in rows} for name, rows in graded.items()}
    pairs = []
    for row in graded["base"]:
        others = [rows.get(row["id"]) for rows in by_id.values()]
        if all(other and other.get("answer") == row.get("answer") for other in others):
            sides = {name: rows[row["id"]] for name, rows in by_id.items()}
            outcomes = {name: _outcome(row[judged], sides[name][judged]) for name in sides if name != "base"}
            pairs.append({"id": row["id"], "sides": sides, "outcomes": outcomes})
    return pairs


def _outcome(was: bool, now: bool) -> str:
    return "right both times" if was and now else "broken" if was else "fixed" if now else "wrong both times"


def balanced_sample(pairs: list[dict], count: int) -> list[dict]:
    """At most `count` pairs, in their order: of each outcome (of `final`) as many as of the others, where there are."""
    left, places = count, {}
    by_outcome = {
        name: [index for index, each in enumerate(pairs) if each["outcomes"]["final"] == name] for name in OUTCOMES
    }
    for position, name in enumerate(sorted(OUTCOMES, key=lambda name: len(by_outcome[name]))):
        places[name] = by_outcome[name][: left // (len(OUTCOMES) - position)]
        left -= len(places[name])
    return [pairs[index] for index in sorted(index for chosen in places.values() for index in chosen)]


def page_row(paired: dict, prompt: str, question: str, rewards: Mapping) -> dict:
    """One pair as the page's script wants it: all text made visible, short keys.

    Args:
      paired: of `pair`.
      prompt: what the model was asked, as a whole.
      question: the part of it that is not the same for all rows; empty where it is not known.
      rewards: name of a side → reward by name; empty where there are none.
    """
    prompt, question = numbers.shorten_visible(prompt), numbers.shorten_visible(question)
    start = prompt.find(question) if question else -1
    return {
        "id": numbers.shorten_visible(str(paired["id"])),
        "o": [OUTCOMES.index(outcome) for outcome in paired["outcomes"].values()],
        "p": prompt,
        "q": [start, start + len(question)] if start >= 0 else [0, len(prompt)],
        "g": numbers.shorten_visible(str(paired["sides"]["base"]["answer"])),
        "s": [_side(graded, rewards.get(name, {})) for name, graded in paired["sides"].items()],
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


def pack(value: object) -> str:
    """JSON as base64 of gzip: the same text for equal values, and nothing in it that HTML could take for markup."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 6, mtime=0)).decode()


def pack_pairs(
    pairs: list[dict], limit: int | None, budget_bytes: int, how: dict, make_row: Callable[[dict], dict]
) -> tuple[list[dict], str]:
    """As many pairs as may be shown, packed.

    Args:
      pairs: of `pair`.
      limit: how many at most; None is all.
      budget_bytes: how long the packed text may be; where all would be longer, `fair_share` of them are packed.
      how: what the page's script needs to know of all rows.
      make_row: a pair → what `row` returns.

    Returns:
      the pairs that are in it, and the text.
    """
    shown = pairs if limit is None else balanced_sample(pairs, limit)
    while True:
        text = pack({"settings": how, "rows": [make_row(each) for each in shown]})
        if len(text) <= budget_bytes or not shown:
            return shown, text
        fitting = int(0.95 * len(shown) * max(0, budget_bytes) / len(text))
        shown = balanced_sample(shown, min(len(shown) - 1, fitting))
