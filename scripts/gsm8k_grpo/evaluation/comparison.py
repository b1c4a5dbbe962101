"""Rows of several evaluations in pairs: base against trained, recipe against recipe."""

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.evaluation.artifact_reading import graded_completions
from gsm8k_grpo.evaluation.metrics import COUNTED_VERDICTS, rows_by_group
from gsm8k_grpo.rewards.answers import Tags

BETTER, WORSE, UNCHANGED = "better", "worse", "no significant change"

# What can become of a row, by whether base and trained model answer it.
OUTCOMES = {
    (False, True): "fixed",
    (True, False): "broken",
    (False, False): "wrong both times",
    (True, True): "right both times",
}


def verdict_keys(extraction: str) -> dict[str, str]:
    """Each comparison's name and its key in completions.jsonl; `answer` is the recipe's own reading."""
    return {"answer": f"{extraction}_correct", **{name: f"{name}_correct" for name in COUNTED_VERDICTS}}


def read_checkpoints(
    base_file: Path, final_file: Path, best_file: Path, tags: Tags, extraction: str
) -> tuple[list[dict], list[dict], list[dict]]:
    """The first completions of base, final and best, with the grader's verdicts.

    Args:
      base_file, final_file, best_file: each a completions.jsonl.
      tags, extraction: as in `graded_completions`.

    Raises:
      PipelineError: the files do not hold the same rows.
    """
    keys = verdict_keys(extraction).values()
    base, final, best = (
        graded_completions(path, tags, extraction, *keys) for path in (base_file, final_file, best_file)
    )
    for path, rows in ((final_file, final), (best_file, best)):
        require_same_rows(base_file, [row["id"] for row in base], path, [row["id"] for row in rows])
    return base, final, best


def compare_checkpoints(base: list[dict], final: list[dict], best: list[dict], extraction: str) -> dict:
    """Base against final and against best, verdict by verdict.

    One test is primary, declared before anything is measured: `answer`, the recipe's own reading, of `final`. All
    others are secondary, and Holm corrects them together.

    Args:
      base, final, best: of `read_checkpoints`.
      extraction: `evaluation.extraction`, the reading that `answer` is.

    Returns:
      `stats.paired_comparison` of each verdict for `final`, and the same for `best` under `best`. Each has `holm_p`: p
      corrected for the number of secondary tests, None for the primary one. `secondary_tests` is that number. The same
      verdicts on the same completions are one test: `answer` and the reading that it is, and, where the best
      checkpoint is the last, `best` and `final`. If rows have a group, `groups` has the verdicts of `final` for the
      rows of each, which are secondary too.
    """
    keys = verdict_keys(extraction)
    compared = {"final": _compare(base, final, keys), "best": _compare(base, best, keys)}
    after = {row["id"]: row for row in final}
    groups = {
        name: _compare(before, [after[row["id"]] for row in before], keys)
        for name, before in rows_by_group(base).items()
    }
    tests: dict[tuple[str, str, str], list[dict]] = {}
    for checkpoint, verdicts in compared.items():
        for name, key in keys.items():
            tests.setdefault(("final" if best == final else checkpoint, "", key), []).append(verdicts[name])
    for group, verdicts in groups.items():
        for name, key in keys.items():
            tests.setdefault(("final", group, key), []).append(verdicts[name])
    primary = tests.pop(("final", "", keys["answer"]))
    corrected = stats.holm([same[0]["mcnemar_p"] for same in tests.values()])
    for same, p in [(primary, None), *zip(tests.values(), corrected, strict=True)]:
        for test in same:
            test["holm_p"] = p
    whole = {**compared["final"], "best": compared["best"], "secondary_tests": len(tests)}
    return whole | ({"groups": groups} if groups else {})


def verdict(test: Mapping) -> str:
    """The result of one paired comparison: `BETTER`, `WORSE` or `UNCHANGED`.

    p is Holm's where the test is one of several (`holm_p`), and McNemar's own where it is the primary one.
    """
    corrected = test.get("holm_p")
    if (test["mcnemar_p"] if corrected is None else corrected) >= stats.SIGNIFICANT:
        return UNCHANGED
    return BETTER if test["difference"]["value"] > 0 else WORSE


def require_same_rows(base_file: Path, base_ids: Collection, trained_file: Path, trained_ids: Collection) -> None:
    """Raises a PipelineError unless both evaluations have the same ids."""
    if base_ids != trained_ids:
        raise PipelineError(f"{base_file} and {trained_file} do not hold the same rows; evaluate both again")


def _compare(before: list[dict], after: list[dict], keys: Mapping[str, str]) -> dict:
    return {
        name: stats.paired_comparison([row[key] for row in before], [row[key] for row in after])
        for name, key in keys.items()
    }


def pair_rows(graded: Mapping[str, list[dict]], verdict_key: str) -> list[dict]:
    """Rows of several evaluations side by side, with the outcome of each.

    Args:
      graded: first completions by evaluation: `base`, `final` and perhaps `best`. A row is left out unless all
        evaluations have it with the same gold answer.
      verdict_key: the verdict that decides, such as `strict_correct`.

    Returns:
      `id`, `sides` (the rows by evaluation) and `outcomes` (one of `OUTCOMES` for each trained model).
    """
    by_id = {name: {row["id"]: row for row in rows} for name, rows in graded.items()}
    pairs = []
    for row in graded["base"]:
        sides = {name: rows.get(row["id"]) for name, rows in by_id.items()}
        if all(side and side.get("answer") == row.get("answer") for side in sides.values()):
            outcomes = {
                name: OUTCOMES[row[verdict_key], side[verdict_key]] for name, side in sides.items() if name != "base"
            }
            pairs.append({"id": row["id"], "sides": sides, "outcomes": outcomes})
    return pairs


def read_verdicts(results: Path, run: str) -> dict[tuple, dict[str, bool]]:
    """The verdicts on the first completions of a run's final checkpoint, by (id, question, gold answer).

    Raises:
      PipelineError: an artifact is missing, or completions and data set do not belong together.
    """
    settings = stage_settings(str(layout.settings_file(results, run)), "dataset", "prompt", "evaluation")
    data = layout.dataset_rows(results, settings["dataset"]["name"], settings["evaluation"]["split"])
    questions = {row["id"]: row["question"] for row in files.read_jsonl(data, ("id", "question"))}
    tags, extraction = Tags.of(settings["prompt"]), settings["evaluation"]["extraction"]
    keys = verdict_keys(extraction)
    completions = layout.evaluation_folder(results, run, "final") / "completions.jsonl"
    verdicts = {}
    for row in graded_completions(completions, tags, extraction, *keys.values()):
        if row["id"] not in questions:
            raise PipelineError(f"{completions}: no row of {data} has the id {row['id']!r}; evaluate again")
        verdicts[row["id"], questions[row["id"]], row["answer"]] = {name: row[key] for name, key in keys.items()}
    return verdicts


def compare_recipes(verdicts: dict[str, dict[tuple, dict[str, bool]]]) -> dict:
    """Compares every two recipes on the rows that both answered.

    Args:
      verdicts: `read_verdicts` of each recipe.

    Returns:
      `pairs`: for each two recipes with a common row `recipes` (their names) and `stats.paired_comparison` of each
      verdict (`fixed`: only the second recipe is right); `answer` also has `holm_p`, its p corrected for the number of
      pairs. `apart`: the pairs without a common row.
    """
    pairs, apart = [], []
    for first, second in itertools.combinations(verdicts, 2):
        common = [row for row in verdicts[first] if row in verdicts[second]]
        if not common:
            apart.append([first, second])
            continue
        before, after = ([verdicts[recipe][row] for row in common] for recipe in (first, second))
        pairs.append({"recipes": [first, second], **_compare(before, after, {name: name for name in before[0]})})
    for pair, p in zip(pairs, stats.holm([pair["answer"]["mcnemar_p"] for pair in pairs]), strict=True):
        pair["answer"]["holm_p"] = p
    return {"pairs": pairs, "apart": apart}
