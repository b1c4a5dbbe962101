"""Stage `download`: the data set's rows, normalised, from published files or generated.

  python scripts/download.py --settings results/tiny/settings.yaml --output results/data/word-problems

Writes train.jsonl and test.jsonl (`id`, `question`, `solution`, `answer`) and dataset.json (source, rows, hashes).
"""

import argparse
from pathlib import Path

from gsm8k_grpo import files, gsm8k, problems, runtime, settings
from gsm8k_grpo.errors import PipelineError, run_stage


def load(dataset: settings.Mapping) -> tuple[dict[str, list[dict]], dict]:
    """The normalised rows by split, and what is known of where they come from."""
    if dataset["source"] == "generated":
        train, test = problems.generate(dataset["seed"], dataset["train_rows"], dataset["test_rows"])
        rows = {
            split: [
                gsm8k.normalise(row, f"{split}-{index:05d}", f"generated {split} row {index}")
                for index, row in enumerate(published)
            ]
            for split, published in (("train", train), ("test", test))
        }
        return rows, {"source": "generated", "seed": dataset["seed"]}
    folder, rows, hashes = Path(dataset["path"]), {}, {}
    for split in ("train", "test"):
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            raise PipelineError(
                f"dataset.path: {path} does not exist; put GSM8K's published train.jsonl and test.jsonl into {folder}, "
                "or set dataset.path to where they are"
            )
        rows[split] = gsm8k.read(path, split)
        wanted = dataset[f"{split}_rows"]
        if wanted and wanted > len(rows[split]):
            raise PipelineError(f"dataset.{split}_rows: {wanted} rows wanted, {path} has {len(rows[split])}")
        rows[split] = rows[split][:wanted]
        hashes[path.name] = files.sha256_file(path)
    return rows, {"source": "jsonl", "path": str(folder), "sha256": hashes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON text or a settings.yaml; needs the block dataset")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    dataset = settings.stage_settings(arguments.settings, "dataset")["dataset"]
    rows, origin = load(dataset)
    for split, split_rows in rows.items():
        files.write_jsonl(arguments.output / f"{split}.jsonl", split_rows)
        print(f"{split}: {len(split_rows)} rows")
    manifest = {
        "name": dataset["name"],
        "origin": origin,
        "rows": {split: len(split_rows) for split, split_rows in rows.items()},
        "sha256": {split: files.sha256_file(arguments.output / f"{split}.jsonl") for split in rows},
        "provenance": runtime.provenance(seed=dataset["seed"]),
    }
    files.write_json(arguments.output / "dataset.json", manifest)


if __name__ == "__main__":
    run_stage(main)
