"""Stage `tfds_rows`: GSM8K from TensorFlow Datasets, in the order in which it was published.

  .venv-tfds/bin/python scripts/tfds_rows.py --output results/data/gsm8k/tfds

This stage has an environment of its own: envs/tfds.txt, which `make setup-tfds` installs into .venv-tfds. It writes
train.jsonl and test.jsonl (`question`, `answer`, as published) and origin.json (versions). TensorFlow Datasets keeps
what it downloads and prepares in its own folder (TFDS_DATA_DIR, or ~/tensorflow_datasets) and later needs no network.
"""

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFolder, run_stage
from gsm8k_grpo.data import gsm8k, tfds_source


def main(*, output: OutputFolder) -> None:
    """Runs the stage."""
    rows, versions = tfds_source.prepare_rows()
    for split, split_rows in rows.items():
        files.write_text(output / f"{split}.jsonl", gsm8k.published_text(split_rows))
        print(f"{split}: {len(split_rows)} rows")
    files.write_json(output / "origin.json", {"versions": versions})


if __name__ == "__main__":
    run_stage(main)
