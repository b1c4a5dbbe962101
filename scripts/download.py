"""Stage `download`: the data set's rows, normalised, from a hub, from published files, or generated.

  python scripts/download.py --settings results/tiny/settings.yaml --output results/data/word-problems

Writes train.jsonl and test.jsonl (`id`, `question`, `solution`, `answer`) and dataset.json (source, rows, hashes). Rows
from a hub are compared with the published ones, so that every hub gives the same bytes.
"""

from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFolder, Settings, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.data.sources import load_rows


def main(*, settings: Settings, tfds_rows: Path | None = None, output: OutputFolder) -> None:
    """Runs the stage.

    Args:
      tfds_rows: folder that scripts/tfds_rows.py wrote to (source tfds)
    """
    dataset_settings = stage_settings(settings, "dataset")["dataset"]
    rows, origin = load_rows(dataset_settings, tfds_rows)
    for split, split_rows in rows.items():
        files.write_jsonl(output / f"{split}.jsonl", split_rows)
        print(f"{split}: {len(split_rows)} rows")
    manifest = {
        "name": dataset_settings["name"],
        "origin": origin,
        "rows": {split: len(split_rows) for split, split_rows in rows.items()},
        "sha256": {split: files.sha256_file(output / f"{split}.jsonl") for split in rows},
        "provenance": collect_provenance(seed=dataset_settings["seed"]),
    }
    files.write_json(output / "dataset.json", manifest)


if __name__ == "__main__":
    run_stage(main)
