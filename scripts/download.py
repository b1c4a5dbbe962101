"""Stage `download`: the data set's rows, normalised, from a hub, from published files, or generated.

  python scripts/download.py --settings results/tiny/settings.yaml --output results/data/word-problems

Writes train.jsonl and test.jsonl (`id`, `question`, `solution`, `answer`) and dataset.json (source, rows, hashes). Rows
of a hub are checked against the published ones, so that each hub gives the same bytes.
"""

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.data import gsm8k, hubs, word_problems

SPLITS = ("train", "test")


def load(dataset: Mapping, tfds_rows: Path | None) -> tuple[dict[str, list[dict]], dict]:
    """The normalised rows by split, and what is known of where they come from."""
    if dataset["source"] == "generated":
        train, test = word_problems.generate_problems(dataset["seed"], dataset["train_rows"], dataset["test_rows"])
        return (
            {
                split: normalised(published, split, f"generated {split}")
                for split, published in (("train", train), ("test", test))
            },
            {"source": "generated", "seed": dataset["seed"]},
        )
    rows, origin = from_jsonl(Path(dataset["path"])) if dataset["source"] == "jsonl" else from_hub(dataset, tfds_rows)
    for split in SPLITS:
        wanted = dataset[f"{split}_rows"]
        if wanted and wanted > len(rows[split]):
            raise PipelineError(f"dataset.{split}_rows: {wanted} rows wanted, there are {len(rows[split])}")
        rows[split] = rows[split][:wanted]
    return rows, origin


def normalised(rows: list[dict], split: str, origin: str) -> list[dict]:
    """Raw rows as this pipeline's, with ids `SPLIT-00000` in their order."""
    return [gsm8k.normalise(row, f"{split}-{index:05d}", f"{origin} row {index}") for index, row in enumerate(rows)]


def from_jsonl(folder: Path) -> tuple[dict[str, list[dict]], dict]:
    """Local files, whatever rows they have."""
    rows, hashes = {}, {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            raise PipelineError(
                f"dataset.path: {path} does not exist; put GSM8K's published train.jsonl and test.jsonl into {folder}, "
                "set dataset.path to where they are, or dataset.source to huggingface"
            )
        raw = files.read_jsonl(path, ("question", "answer"))
        known = "" if gsm8k.is_published(raw, split) else f"not the {gsm8k.PUBLISHED[split][0]:,} of "
        print(f"{path}: {len(raw):,} rows, {known}GSM8K's {split} as published", flush=True)
        rows[split] = gsm8k.read(path, split)
        hashes[path.name] = files.sha256_file(path)
    shared = {row["question"] for row in rows["test"]}.intersection(row["question"] for row in rows["train"])
    if shared:
        print(
            f"WARNING: dataset.path: {len(shared):,} questions are in test.jsonl and in train.jsonl; rates on test "
            "would be of rows that were trained on",
            flush=True,
        )
    return rows, {"source": "jsonl", "path": str(folder), "sha256": hashes}


def from_hub(dataset: Mapping, tfds_rows: Path | None) -> tuple[dict[str, list[dict]], dict]:
    """GSM8K from a hub, row for row as published."""
    source = dataset["source"]
    if source == "tfds":
        if tfds_rows is None:
            raise PipelineError("--tfds-rows: source tfds needs the folder that scripts/tfds_rows.py wrote to")
        raw = {split: files.read_jsonl(tfds_rows / f"{split}.jsonl", ("question", "answer")) for split in SPLITS}
        origin = {"source": source, **files.read_json(tfds_rows / "origin.json")}
    else:
        handle = dataset["handle"] or gsm8k.HANDLES[source]
        folder, origin = hubs.fetch(source, "dataset", handle, None, ("main/*.parquet",))
        read = read_parquet if source == "huggingface" else read_csv
        raw = {split: read(folder, split) for split in SPLITS}
        del origin["revision"], origin["files"], origin["warning"]  # the contents are checked: a revision adds nothing
    rows = {}
    for split in SPLITS:
        where = f"GSM8K from {source}" + (f" ({origin['handle']})" if "handle" in origin else "")
        gsm8k.check_published(raw[split], split, where)
        rows[split] = normalised(raw[split], split, f"{where}, {split}")
    return rows, {**origin, "sha256": {f"{split}.jsonl": sha256 for split, (_, sha256) in gsm8k.PUBLISHED.items()}}


def read_parquet(folder: Path, split: str) -> list[dict]:
    """Raw rows of the configuration `main` in a Hugging Face data set's parquet files."""
    import pyarrow
    from pyarrow import parquet

    paths = sorted(folder.glob(f"main/{split}-*.parquet"))
    if not paths:
        raise PipelineError(f"dataset.handle: no main/{split}-*.parquet in {folder}; GSM8K is openai/gsm8k")
    try:
        return [row for path in paths for row in parquet.read_table(path, columns=["question", "answer"]).to_pylist()]
    except (pyarrow.ArrowException, OSError) as error:
        raise PipelineError(f"{paths[0]}: cannot be read as rows of GSM8K ({type(error).__name__})") from None


def read_csv(folder: Path, split: str) -> list[dict]:
    """Raw rows of a Kaggle data set's main_SPLIT.csv, or of its SPLIT.jsonl."""
    table, lines = folder / f"main_{split}.csv", folder / f"{split}.jsonl"
    if lines.is_file() and not table.is_file():
        return files.read_jsonl(lines, ("question", "answer"))
    if not table.is_file():
        raise PipelineError(f"dataset.handle: neither {table.name} nor {lines.name} in {folder}; name another data set")
    try:
        with table.open(encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{table}: cannot be read as rows of GSM8K ({type(error).__name__})") from None
    if not rows or not {"question", "answer"} <= rows[0].keys():
        raise PipelineError(f"{table}: expected the columns question and answer")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs the block dataset")
    parser.add_argument("--tfds-rows", type=Path, help="folder that scripts/tfds_rows.py wrote to (source tfds)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    dataset = stage_settings(arguments.settings, "dataset")["dataset"]
    rows, origin = load(dataset, arguments.tfds_rows)
    for split, split_rows in rows.items():
        files.write_jsonl(arguments.output / f"{split}.jsonl", split_rows)
        print(f"{split}: {len(split_rows)} rows")
    manifest = {
        "name": dataset["name"],
        "origin": origin,
        "rows": {split: len(split_rows) for split, split_rows in rows.items()},
        "sha256": {split: files.sha256_file(arguments.output / f"{split}.jsonl") for split in rows},
        "provenance": collect_provenance(seed=dataset["seed"]),
    }
    files.write_json(arguments.output / "dataset.json", manifest)


if __name__ == "__main__":
    run_stage(main)
