"""The published sets of word problems that a trained model can be tried on (`evaluation.transfer`), and their columns.

No row of theirs is part of this project: each is downloaded from its own repository, or read from a copy of the user's.
"""

import dataclasses
from collections.abc import Callable, Mapping

from gsm8k_grpo.common import files

# A row of a set before it is normalised: `question`, `answer` (its number, as text or as JSON has it; `NO_NUMBER` where
# no number is right), and perhaps `solution`, `group` and `cluster`.
RawRow = dict[str, object]
NO_NUMBER = object()


@dataclasses.dataclass(frozen=True)
class PublishedSet:
    """A published set.

    Attributes:
      repository: OWNER/NAME on GitHub.
      commit: of the file that is downloaded.
      path: that file, within the repository.
      checksum: its SHA-256; or, of 40 digits, git's own hash of it.
      licence: of the data.
      convert: makes a `RawRow` of one of its rows; a column that is missing is a KeyError, another fault of one a
        ValueError that says which.
    """

    repository: str
    commit: str
    path: str
    checksum: str
    licence: str
    convert: Callable[[Mapping], RawRow]


def text_of(row: Mapping, column: str) -> str:
    """The text in a column of a row; a ValueError where it is none."""
    if not isinstance(row[column], str):
        raise ValueError(f"{column!r} is {type(row[column]).__name__}, expected text")
    return row[column]


def name_of(row: Mapping, column: str) -> str:
    """The text or number in a column that names a part or a template; a ValueError where it is empty."""
    name = "" if row[column] is None else str(row[column]).strip()
    if not name:
        raise ValueError(f"{column!r} is empty, expected a name or a number")
    return name


def _svamp(row: Mapping) -> RawRow:
    # As in PAL's copy of SVAMP: some bodies have no full stop at their end.
    body, question = text_of(row, "Body").strip(), text_of(row, "Question").strip()
    stop = "" if body.endswith((".", "?", "!", ",")) else "."
    return {"question": f"{body}{stop} {question}", "answer": row["Answer"], "solution": row["Equation"]}


def _multiarith(row: Mapping) -> RawRow:
    return {"question": row["input"], "answer": row["target"]}


def _gsm1k(row: Mapping) -> RawRow:
    return {"question": row["question"], "answer": row["answer"]}


def _gsm_plus(row: Mapping) -> RawRow:
    # A row whose answer is "None" lacks a fact that the question needs: no number is right.
    return {
        "question": row["question"],
        "answer": NO_NUMBER if row["answer"] == "None" else row["answer"],
        "solution": text_of(row, "solution").rpartition("####")[0].rstrip(),
        "group": name_of(row, "perturbation_type"),
        "cluster": files.sha256_text(text_of(row, "seed_question"))[:12],
    }


def _gsm_symbolic(row: Mapping) -> RawRow:
    solution, _, final = text_of(row, "answer").rpartition("####")
    return {
        "question": row["question"],
        "answer": final.strip(),
        "solution": solution.rstrip(),
        "cluster": f"template {name_of(row, 'id')}",
    }


# Corrected labels of GSM8K's own test rows (GSM8K-Platinum): no other problems, but a second gold for the same ones. No
# completion is made for it. It has GSM8K's columns, and where it is, the settings must say.
SECOND_GOLD = "gsm8k_platinum"

_APPLE = ("apple/ml-gsm-symbolic", "b6a1625025fc857300203bac9f617e5d8ec99f65")
PUBLISHED_SETS = {
    "svamp": PublishedSet(
        "arkilpatel/SVAMP",
        "689d7ccac74b9983a2ac7cc3b264f441b99e7c53",
        "SVAMP.json",
        "5be77703a6d891ae476d7c082787ad361392aa02453b132516cdd5f4e7934e3e",
        "MIT",
        _svamp,
    ),
    "multiarith": PublishedSet(
        "reasoning-machines/pal",
        "f81ca2a9777f002f98a6b4d0f10b61bd5c8feb02",
        "datasets/mawpsmultiarith.jsonl",
        "12e8295088364af21fb6591dbdbd1dda452aade57227f63d725677471ded2951",
        "not stated",
        _multiarith,
    ),
    "gsm1k": PublishedSet(
        "scaleapi/gsm1k_eval",
        "39294c6f31855aca8255b6174b22fc3a6311be0b",
        "gsm1k_public_50.csv",
        "43fcd00bc698ee38852857427e956a2e4b516af710113b06f64018226233aa02",
        "MIT",
        _gsm1k,
    ),
    "gsm_plus": PublishedSet(
        "qtli/GSM-Plus",
        "3474129ec12fcd3e8ac08cb037aca1928efca98c",
        "dataset/gsmplus_testmini.jsonl",
        "6653b4b941956da12ba0af2eae660800db13a901123553b163b77be2d20eb7d5",
        "CC BY-SA 4.0",
        _gsm_plus,
    ),
    # The large file's SHA-256 is not known to us; git's hash of it is what the commit itself names.
    "gsm_symbolic": PublishedSet(
        *_APPLE,
        "generated_data/GSM_symbolic.jsonl",
        "8644707d8edb3179cc53876357b4d0f847f5335f",
        "CC BY-NC-ND 4.0",
        _gsm_symbolic,
    ),
    "gsm_symbolic_p1": PublishedSet(
        *_APPLE,
        "generated_data/GSM_p1.jsonl",
        "97d3ee573a68f5ca1e761f32994b5e1315910678",
        "CC BY-NC-ND 4.0",
        _gsm_symbolic,
    ),
    "gsm_symbolic_p2": PublishedSet(
        *_APPLE,
        "generated_data/GSM_p2.jsonl",
        "f7d6701619f824f4fedd0a914b1cfbc0fd31f61617887aa7fe318d018dda3f29",
        "CC BY-NC-ND 4.0",
        _gsm_symbolic,
    ),
}
