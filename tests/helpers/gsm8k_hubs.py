"""GSM8K on the hubs of `loopback_hubs`, and the stage `download` that fetches it from there."""

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow
from pyarrow import parquet

from gsm8k_grpo.data import gsm8k
from loopback_hubs import ROOT, Hubs, Repository

KAGGLE_HANDLE = "thedevastator/grade-school-math-8k-q-a"


def put_gsm8k(hub: Hubs, raw: dict[str, list[dict]]) -> None:
    """Puts GSM8K (raw rows by split) on all hubs, in each hub's own form."""
    packed, tables = {}, {}
    for split, rows in raw.items():
        table = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), table)
        packed[f"main/{split}-00000-of-00001.parquet"] = table.getvalue()
        packed[f"socratic/{split}-00000-of-00001.parquet"] = b"not wanted"
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ("question", "answer"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        tables[f"main_{split}.csv"] = text.getvalue().encode()
        hub.github[f"{split}.jsonl"] = gsm8k.published_text(rows).encode()
        hub.github[f"{split}_socratic.jsonl"] = gsm8k.published_text(rows[:3]).encode()
    hub.huggingface["dataset/openai/gsm8k"] = Repository(packed)
    hub.kaggle[f"dataset/{KAGGLE_HANDLE}"] = Repository(tables)


def download(hub: Hubs, output: Path, *more: str, environment: dict | None = None, **dataset: object) -> tuple:
    """(exit status, output) of the stage `download`, with its settings as JSON text, as the rule passes them."""
    no_limit = dict.fromkeys(("handle", "path", "train_rows", "test_rows", "shuffle_seed"))
    defaults = {"name": "gsm8k", "seed": 0, **no_limit}
    command = [sys.executable, str(ROOT / "scripts" / "download.py"), "--output", str(output), *more, "--settings"]
    return hub.run([*command, json.dumps({"dataset": {**defaults, **dataset}})], **(environment or {}))


def read_splits(folder: Path) -> dict[str, bytes]:
    """The bytes of train.jsonl and test.jsonl."""
    return {split: (folder / f"{split}.jsonl").read_bytes() for split in gsm8k.PUBLISHED}
