"""The sources of a data set (`dataset.source`): each is one function that returns rows and where they come from.

To add a source, write a function with the decorator `@source`; its name becomes a value of `dataset.source`. It takes
the block `dataset` and the folder of scripts/tfds_rows.py. It returns normalised rows by split, and the facts that
dataset.json records as their origin.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import gsm8k, hubs, tables, word_problems
from gsm8k_grpo.rewards import answers

SPLITS = tuple(gsm8k.PUBLISHED)
Rows = dict[str, list[dict]]
Source = Callable[[Mapping, Path | None], tuple[Rows, dict]]

SOURCES: dict[str, Source] = {}


def source(function: Source) -> Source:
    """Registers a source by its function's name."""
    SOURCES[function.__name__] = function
    return function


def load_rows(dataset_settings: Mapping, tfds_folder: Path | None) -> tuple[Rows, dict]:
    """The normalised rows by split, shuffled where the settings say so, as many as they ask for, and their origin.

    Args:
      dataset_settings: the block `dataset`.
      tfds_folder: what scripts/tfds_rows.py wrote; only source tfds needs it.
    """
    rows, origin = SOURCES[dataset_settings["source"]](dataset_settings, tfds_folder)
    for split in SPLITS:
        limit = dataset_settings[f"{split}_rows"]
        if limit and limit > len(rows[split]):
            raise PipelineError(
                f"dataset.{split}_rows: {limit} rows wanted, but the data set has {len(rows[split])}; lower it, or "
                "write null to use all rows"
            )
        rows[split] = shuffle_rows(rows[split], dataset_settings["shuffle_seed"])[:limit]
    return rows, {"source": dataset_settings["source"], **origin}


def shuffle_rows(rows: list[dict], seed: int | None) -> list[dict]:
    """The rows in the order of `datasets.Dataset.shuffle(seed=seed)`; in their own with None."""
    if seed is None:
        return rows
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]


@source
def huggingface(dataset_settings: Mapping, _: Path | None) -> tuple[Rows, dict]:
    """GSM8K from a Hugging Face data set's parquet files."""
    return _from_hub("huggingface", dataset_settings, read_parquet)


@source
def kaggle(dataset_settings: Mapping, _: Path | None) -> tuple[Rows, dict]:
    """GSM8K from a Kaggle data set's CSV or JSONL files."""
    return _from_hub("kaggle", dataset_settings, read_csv)


@source
def tfds(_: Mapping, tfds_folder: Path | None) -> tuple[Rows, dict]:
    """GSM8K from TensorFlow Datasets. It needs another environment, so that scripts/tfds_rows.py has prepared it."""
    if tfds_folder is None:
        raise PipelineError("--tfds-rows: source tfds needs the folder that scripts/tfds_rows.py writes to")
    raw = {split: files.read_jsonl(tfds_folder / f"{split}.jsonl", gsm8k.KEYS) for split in SPLITS}
    return _published_rows(raw, "tfds", files.read_json(tfds_folder / "origin.json"))


@source
def jsonl(dataset_settings: Mapping, _: Path | None) -> tuple[Rows, dict]:
    """Local train.jsonl and test.jsonl in GSM8K's form, or with plain answers; their rows may be any."""
    folder = Path(dataset_settings["path"])
    rows, hashes = {}, {}
    for split in SPLITS:
        require_local_files(folder, [split])
        path = folder / f"{split}.jsonl"
        raw = files.read_jsonl(path, gsm8k.KEYS)
        known = "" if gsm8k.is_published(raw, split) else f"not the {gsm8k.PUBLISHED[split][0]:,} of "
        print(f"{path}: {len(raw):,} rows, {known}GSM8K's {split} as published", flush=True)
        formed = [in_published_form(row, f"{path}, row {index}") for index, row in enumerate(raw, start=1)]
        rows[split] = gsm8k.normalise_rows(formed, split, str(path))
        hashes[path.name] = files.sha256_file(path)
    shared = {row["question"] for row in rows["test"]}.intersection(row["question"] for row in rows["train"])
    if shared:
        print(
            f"WARNING: dataset.path: {len(shared):,} questions are in test.jsonl and in train.jsonl; rates on test "
            "would include rows that the model is trained on",
            flush=True,
        )
    return rows, {"path": str(folder), "sha256": hashes}


def require_local_files(folder: Path, splits: Iterable[str] = SPLITS) -> None:
    """Refuses a folder (`dataset.path`) that lacks the file of a split."""
    for split in splits:
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            raise PipelineError(
                f"dataset.path: {path} does not exist; put GSM8K's published train.jsonl and test.jsonl into {folder}, "
                "set dataset.path to their folder, or set dataset.source to huggingface"
            )


@source
def generated(dataset_settings: Mapping, _: Path | None) -> tuple[Rows, dict]:
    """The miniature's word problems, made here."""
    seed = dataset_settings["seed"]
    problems = word_problems.generate_problems(seed, dataset_settings["train_rows"], dataset_settings["test_rows"])
    return {
        split: gsm8k.normalise_rows(raw, split, f"generated {split} problems")
        for split, raw in zip(("train", "test"), problems, strict=True)
    }, {"seed": seed}


def in_published_form(row: dict, where: str) -> dict:
    """A row whose `answer` ends in `#### N`, as GSM8K's do.

    Args:
      row: `answer` may also be a number (18, 2.5) or text that is one (`18`, `1,000`); then `solution` may hold the
        text before it.
      where: file and row, for the error.

    Raises:
      PipelineError: the answer is something else, or the solution is no text.
    """
    answer, solution = row["answer"], row.get("solution", "")
    if isinstance(answer, str) and "####" in answer:
        return row
    text = _number_text(answer)
    if text is None:
        raise PipelineError(
            f"{where}: 'answer' is {repr(answer)[:40]}, expected a number such as 18, or text that is one or that ends "
            "in '#### 18'"
        )
    if not isinstance(solution, str):
        raise PipelineError(f"{where}: 'solution' is {type(solution).__name__}, expected text; or leave it out")
    return row | {"answer": f"{solution}\n#### {text}"}


def _number_text(answer: object) -> str | None:
    """An answer that is one number, as text; None for any other. (To Python, true is an int.)"""
    if type(answer) in (int, float) and math.isfinite(answer):
        return answers.plain(Fraction(repr(answer)))
    return answer.strip() if isinstance(answer, str) and gsm8k.parse_gold(answer) is not None else None


def _from_hub(hub: str, dataset_settings: Mapping, read: Callable[[Path, str], list[dict]]) -> tuple[Rows, dict]:
    handle = dataset_settings["handle"] or gsm8k.HANDLES[hub]
    folder, origin = hubs.fetch(hub, "dataset", handle, None, ("main/*.parquet",))
    # The contents are compared with the published ones, so that hashes of files add nothing.
    facts = {key: origin[key] for key in ("handle", "commit", "version") if key in origin}
    return _published_rows({split: read(folder, split) for split in SPLITS}, hub, facts)


def _published_rows(raw: Rows, name: str, origin: Mapping) -> tuple[Rows, dict]:
    """Raw rows normalised, once they are known to be GSM8K's as published."""
    where = f"GSM8K from {name}" + (f" ({origin['handle']})" if "handle" in origin else "")
    for split in SPLITS:
        gsm8k.check_published(raw[split], split, where)
    rows = {split: gsm8k.normalise_rows(raw[split], split, f"{where}, {split}") for split in SPLITS}
    return rows, {**origin, "sha256": gsm8k.published_hashes()}


def read_parquet(folder: Path, split: str) -> list[dict]:
    """Raw rows of the configuration `main` in a Hugging Face data set's parquet files."""
    paths = sorted(folder.glob(f"main/{split}-*.parquet"))
    if not paths:
        raise PipelineError(f"dataset.handle: no main/{split}-*.parquet in {folder}; GSM8K is openai/gsm8k")
    return [row for path in paths for row in _read_file(path)]


def read_csv(folder: Path, split: str) -> list[dict]:
    """Raw rows of a Kaggle data set's main_SPLIT.csv, or of its SPLIT.jsonl."""
    table, lines = folder / f"main_{split}.csv", folder / f"{split}.jsonl"
    found = next((path for path in (table, lines) if path.is_file()), None)
    if found is None:
        raise PipelineError(f"dataset.handle: neither {table.name} nor {lines.name} in {folder}; name another data set")
    return _read_file(found)


def _read_file(path: Path) -> list[dict]:
    rows = tables.read_table(path)
    if not all(set(gsm8k.KEYS) <= row.keys() for row in rows):
        raise PipelineError(f"{path}: expected the columns {' and '.join(gsm8k.KEYS)}; name another data set")
    return rows
