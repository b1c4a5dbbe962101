"""Do questions of a test set stand among the training rows, as they are or with other numbers and names?"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*")
N = 13  # words of a shared passage, as in GPT-3's check (Brown et al. 2020, arXiv 2005.14165, appendix C)


def find_overlap(train: list[dict], test_sets: Mapping[str, list[dict]]) -> dict[str, dict]:
    """For each test set its `rows` and the ids of those that are like a training row, in three ways.

    Args:
      train: rows with `question`.
      test_sets: rows with `id` and `question`, by name.

    Returns:
      for each set `rows` (their number), `same` (ids: the same words), `same_but_for_numbers_and_names` (the same as
      `same`, or with other ones) and `shared_passage` (`N` words in a row in common, whatever stands around them).
    """
    questions = [row["question"] for row in train]
    names = find_names([*questions, *(row["question"] for rows in test_sets.values() for row in rows)])
    same = {_words(text) for text in questions}
    alike = {_pattern(text, names) for text in questions}
    passages = {passage for text in questions for passage in _passages(_words(text))}

    def ids(rows: list[dict], is_like: Callable[[str], bool]) -> list[str]:
        return [row["id"] for row in rows if is_like(row["question"])]

    return {
        name: {
            "rows": len(rows),
            "same": ids(rows, lambda text: _words(text) in same),
            "same_but_for_numbers_and_names": ids(rows, lambda text: _pattern(text, names) in alike),
            "shared_passage": ids(rows, lambda text: any(each in passages for each in _passages(_words(text)))),
        }
        for name, rows in test_sets.items()
    }


def find_names(texts: list[str]) -> set[str]:
    """Words that are names, in small letters: they stand with a capital in mid-sentence more often than without one.

    A word that nowhere stands in small letters is a name too.
    """
    small, capital, seen = Counter(), Counter(), set()
    for text in texts:
        for match in WORDS.finditer(text):
            word = match[0]
            if word.islower():
                small[word] += 1
            elif not word[0].isdecimal():
                seen.add(word.lower())
                before = text[: match.start()].rstrip(" \n\t'\"“‘(")
                if before and before[-1] not in ".?!:":
                    capital[word.lower()] += 1
    return {word for word in seen if not small[word] or capital[word] > small[word]}


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in WORDS.findall(text.replace("’", "'")))  # GSM8K writes both


def _passages(words: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (words[start : start + N] for start in range(len(words) - N + 1))


def _pattern(text: str, names: set[str]) -> tuple[str, ...]:
    """A question's words, with one mark for each number and another for each name."""
    return tuple("0" if word[0].isdecimal() else "Name" if word in names else word for word in _words(text))
