"""Does what was learned carry over? Base against trained on sets of other problems, and the one verdict on all of them.

docs/evaluation.md has the rule in words.
"""

from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data.overlap import find_overlap
from gsm8k_grpo.data.transfer_sets import SECOND_GOLD
from gsm8k_grpo.evaluation import clustered, stats
from gsm8k_grpo.evaluation.artifact_reading import REPORTED_CHECKPOINTS, first_completions, graded_completions
from gsm8k_grpo.evaluation.comparison import BETTER, UNCHANGED, WORSE, require_same_rows, verdict
from gsm8k_grpo.evaluation.grading import grade_row
from gsm8k_grpo.evaluation.metrics import with_number
from gsm8k_grpo.rewards.answers import Tags

FORMAT = "better in format alone"
SET_VERDICTS = (BETTER, WORSE, FORMAT, UNCHANGED)
NO_GAIN, ONLY_FORMAT, ALONE, CARRIES_OVER = "no gain", "format", "on its own rows alone", "carries over"
NO_SET = "no other set"
RATES = ("answer_accuracy", "flexible_accuracy", "format_accuracy", "truncated_rate")


def set_folder(results: Path, run: str, name: str) -> Path:
    """What belongs to one run on one set: prompts/, and a folder for each evaluation."""
    return layout.run_folder(results, run) / "transfer" / name


def compare_transfer(results: Path, run: str, settings: Mapping) -> dict:
    """All that transfer.json holds but for provenance: each set, the verdict, and the overlap with the training rows.

    Args:
      results: the folder of all artifacts.
      run: the name of the recipe or run.
      settings: its blocks `dataset`, `prompt` and `evaluation`.

    Raises:
      PipelineError: an artifact is missing, or evaluations do not hold the same rows.
    """
    tags, extraction = Tags.of(settings["prompt"]), settings["evaluation"]["extraction"]
    listed = [each["name"] for each in settings["evaluation"]["transfer"]]
    names = [name for name in listed if name != SECOND_GOLD]
    sets = {name: _compare_set(results, run, name, tags, extraction) for name in names}
    tests = _correct([each["compared"] for each in sets.values()], extraction)
    for each in sets.values():
        each["verdict"] = verdict_of_set(each["compared"])
    own = files.read_json(layout.run_folder(results, run) / "comparison.json")
    dataset, split = settings["dataset"]["name"], settings["evaluation"]["split"]
    test_sets = {name: layout.dataset_rows(results, name, "test") for name in names}
    if split == "test":  # else nothing reads test
        test_sets = {dataset: layout.dataset_rows(results, dataset, "test"), **test_sets}
    read = {name: files.read_jsonl(path, ("id", "question")) for name, path in test_sets.items()}
    train = files.read_jsonl(layout.dataset_rows(results, dataset, "train"), ("question",))
    return {
        "verdict": verdict_of_all(own, {name: each["verdict"] for name, each in sets.items()}),
        "own": {"name": dataset, "split": split, **{key: own[key] for key in ("answer", "flexible")}},
        "sets": sets,
        "tests": tests,
        "second_gold": _compare_second_gold(results, run, settings) if SECOND_GOLD in listed else None,
        "overlap": {"train_rows": len(train), "sets": find_overlap(train, read)},
    }


def _compare_set(results: Path, run: str, name: str, tags: Tags, extraction: str) -> dict:
    """One set: its rows, rates of base, final and best, and `compared`, final against base by reading.

    `abstained` are the rates at which they give no number on rows that no number answers; empty without such rows.
    """
    folder, data = set_folder(results, run, name), layout.dataset_folder(results, name)
    clusters = {row["id"]: row.get("cluster") for row in files.read_jsonl(data / "test.jsonl", ("id",))}
    origin = files.read_json(data / "dataset.json")["origin"]
    prompts = files.read_json(folder / "prompts" / "summary.json")["splits"]["test"]
    metrics = {each: files.read_json(folder / each / "metrics.json") for each in REPORTED_CHECKPOINTS}
    keys = {"answer": f"{extraction}_correct", "flexible": "flexible_correct"}
    paths = {each: folder / each / "completions.jsonl" for each in REPORTED_CHECKPOINTS}
    completed = {each: graded_completions(path, tags, extraction, *keys.values()) for each, path in paths.items()}
    ids = {each: [row["id"] for row in rows] for each, rows in completed.items()}
    for each in ("final", "best"):
        require_same_rows(paths["base"], ids["base"], paths[each], ids[each])
    # Rows that no number answers are apart.
    graded = {each: with_number(rows) for each, rows in completed.items()}
    abstained = {each: [row["abstained"] for row in rows if row["answer"] is None] for each, rows in completed.items()}
    shared = [clusters[row["id"]] for row in graded["base"]]

    def compare(checkpoint: str, key: str, group: str | None = None) -> dict:
        kept = [index for index, row in enumerate(graded["base"]) if group is None or row.get("group") == group]
        before, after = ([graded[side][index][key] for index in kept] for side in ("base", checkpoint))
        # A set has a cluster in each row, or in none.
        named = [shared[index] for index in kept] if None not in shared else None
        return clustered.paired_comparison(before, after, named)

    best = {"checkpoint": metrics["best"]["checkpoint"], "difference": compare("best", keys["answer"])["difference"]}
    groups = dict.fromkeys(row["group"] for row in graded["base"] if "group" in row)
    return {
        "rows": len(graded["base"]),
        "left_out": prompts["left_out"],
        "without_number": len(abstained["base"]),
        "abstained": {each: stats.wilson_rate(sum(found), len(found)) for each, found in abstained.items() if found},
        "as_published": origin["as_published"],
        "best": best,
        "rates": {each: {key: metrics[each][key] for key in RATES} for each in REPORTED_CHECKPOINTS},
        "compared": {reading: compare("final", key) for reading, key in keys.items()},
        "groups": {group: _described(compare("final", keys["answer"], group)) for group in groups},
    }


def _compare_second_gold(results: Path, run: str, settings: Mapping) -> dict:
    """The evaluated completions of base and final under corrected labels, on the rows that have one.

    Returns:
      `rows` (with a label), `changed` (ids whose label is another one), `without_label` (how many evaluated rows have
      none), and `answer` and `flexible`: `stats.paired_comparison` of both models, described and not tested.
    """
    dataset, evaluation, tags = settings["dataset"]["name"], settings["evaluation"], Tags.of(settings["prompt"])
    corrected = files.read_jsonl(layout.dataset_rows(results, SECOND_GOLD, "test"), ("question", "answer"))
    gold = {row["question"].strip(): row for row in corrected}
    own = files.read_jsonl(layout.dataset_rows(results, dataset, evaluation["split"]), ("id", "question", "answer"))
    labels = {row["id"]: gold[row["question"].strip()] for row in own if row["question"].strip() in gold}
    graded = {
        side: first_completions(layout.evaluation_folder(results, run, side) / "completions.jsonl", "completion")
        for side in ("base", "final")
    }
    if not (found := [row for row in graded["base"] if row["id"] in labels]):
        raise PipelineError(f"evaluation.transfer: {SECOND_GOLD}: no row of {dataset} has its question; leave it out")
    verdicts = {
        side: [
            grade_row(row["completion"], labels[row["id"]], tags, evaluation["extraction"])
            for row in rows
            if row["id"] in labels
        ]
        for side, rows in graded.items()
    }
    keys = {"answer": f"{evaluation['extraction']}_correct", "flexible": "flexible_correct"}
    return {
        "rows": len(found),
        "changed": [row["id"] for row in found if row["answer"] != labels[row["id"]]["answer"]],
        "without_label": len(graded["base"]) - len(found),
        **{
            reading: stats.paired_comparison(*([row[key] for row in verdicts[side]] for side in ("base", "final")))
            for reading, key in keys.items()
        },
    }


def _described(compared: Mapping) -> dict:
    """The parts of a comparison that are shown without a test."""
    return {key: compared[key] for key in ("n", "fixed", "broken", "difference")}


def _correct(compared: list[dict], extraction: str) -> int:
    """Adds Holm's `holm_p` to the tests of all sets together; returns their number.

    A recipe that reads by `flexible` has one test a set: both readings are the same.
    """
    readings = ("answer",) if extraction == "flexible" else ("answer", "flexible")
    tests = [each[reading] for each in compared for reading in readings]
    for test, p in zip(tests, stats.holm([test["p"] for test in tests]), strict=True):
        test["holm_p"] = p
    for each in compared:
        each["flexible"].setdefault("holm_p", each["answer"]["holm_p"])
    return len(tests)


def verdict_of_set(compared: Mapping) -> str:
    """What became of one set: `WORSE`, `BETTER`, `FORMAT` or `UNCHANGED`.

    Args:
      compared: `answer` and `flexible` (the last number, whatever the format), each with `difference` and `holm_p`.
    """
    answer, flexible = (verdict(compared[key]) for key in ("answer", "flexible"))
    if WORSE in (answer, flexible):
        return WORSE
    return BETTER if flexible == BETTER else FORMAT if answer == BETTER else UNCHANGED


def verdict_of_all(own: Mapping, sets: Mapping[str, str]) -> str:
    """The verdict on a run: `NO_GAIN`, `CARRIES_OVER`, `ALONE` or `ONLY_FORMAT`; `NO_SET` without a set.

    Args:
      own: comparison.json, on the recipe's own rows.
      sets: what became of each set (`verdict_of_set`).
    """
    answer, flexible = (verdict(own[key]) for key in ("answer", "flexible"))
    if not sets:
        return NO_SET
    if answer != BETTER:
        return NO_GAIN
    if BETTER in sets.values():
        return CARRIES_OVER
    return ALONE if flexible == BETTER else ONLY_FORMAT
