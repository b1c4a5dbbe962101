"""GSM8K from TensorFlow Datasets, which downloads it from a host on the loopback, in an environment of its own."""

import json
import os
import sys
from pathlib import Path

import pytest

from gsm8k_hubs import download, put_gsm8k, read_splits
from loopback_hubs import GITHUB, ROOT

TFDS_PYTHON = Path(os.environ.get("TFDS_PYTHON", ROOT / ".venv-tfds" / "bin" / "python"))
STAGE = (str(ROOT / "scripts" / "tfds_rows.py"), "--output")
MIB = 2**20


@pytest.fixture
def tfds(hub, raw, tmp_path):
    """Runs scripts/tfds_rows.py in its own environment."""
    if not TFDS_PYTHON.exists():
        pytest.skip("needs TensorFlow's environment: make setup-tfds")
    put_gsm8k(hub, raw)

    def rows(**options):
        return hub.run([str(TFDS_PYTHON), *STAGE, str(tmp_path / "rows")], **options)

    return rows


@pytest.mark.slow
def test_gsm8k_from_tensorflow_datasets_is_the_same_bytes(hub, tfds, published, normalised, tmp_path):
    hub.cuts["train.jsonl"] = [2 * MIB, MIB]
    hub.damaged["test.jsonl"] = 1
    for _ in range(2):  # the second time without a network
        status, text = tfds()
        assert status == 0, text
        assert read_splits(tmp_path / "rows") == read_splits(published)
        hub.close()
    assert hub.resumed(f"{GITHUB}train.jsonl") == [2 * MIB, 3 * MIB]
    status, text = download(hub, tmp_path / "data", "--tfds-rows", str(tmp_path / "rows"), source="tfds")
    assert status == 0, text
    assert read_splits(tmp_path / "data") == normalised
    origin = json.loads((tmp_path / "data" / "dataset.json").read_text())["origin"]
    assert origin["source"] == "tfds"
    assert origin["versions"].keys() == {"gsm8k", "tensorflow-cpu", "tensorflow-datasets"}


@pytest.mark.slow
def test_each_failure_is_one_sentence_and_the_next_run_resumes(hub, tfds):
    hub.statuses["train.jsonl"] = [404]
    status, text = tfds()
    assert (
        status == 1 and "GSM8K answers with status 404: try again later; or set dataset.source to huggingface" in text
    )
    status, text = tfds(limit_bytes=MIB)
    assert status == 1 and "ERROR: dataset.source: no space left in " in text and "TFDS_DATA_DIR" in text
    hub.requests.clear()
    hub.cuts["train.jsonl"] = [MIB] + [0] * 9
    status, text = tfds()
    assert status == 1 and "in 4 attempts (the connection was cut): check the connection" in text
    assert hub.resumed(f"{GITHUB}train.jsonl")[:2] == [MIB, 2 * MIB]
    hub.cuts.clear()
    hub.requests.clear()
    assert tfds()[0] == 0
    assert hub.resumed(f"{GITHUB}train.jsonl") == [2 * MIB]


def test_without_tensorflow_the_stage_says_what_to_run(hub, tmp_path):
    status, text = hub.run([sys.executable, *STAGE, str(tmp_path / "rows")])
    assert status == 1 and "run `make setup-tfds`, or Snakemake with --sdm conda" in text and "Traceback" not in text
