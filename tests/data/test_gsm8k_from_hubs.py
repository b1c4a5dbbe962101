"""GSM8K from Hugging Face and Kaggle: the real clients fetch it from hubs on the loopback."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from gsm8k_grpo.data import gsm8k
from gsm8k_hubs import KAGGLE_HANDLE, download, put_gsm8k, read_splits
from loopback_hubs import COMMIT, CREDENTIALS, KAGGLE_VERSION, ROOT, assert_no_secret_below

TFDS_PYTHON = Path(os.environ.get("TFDS_PYTHON", ROOT / ".venv-tfds" / "bin" / "python"))
MIB = 2**20


@pytest.mark.slow
def test_gsm8k_is_the_same_bytes_from_each_hub(hub, raw, normalised, tmp_path):
    put_gsm8k(hub, raw)
    for network in (True, False):
        if not network:
            hub.close()
        for source, found in (("huggingface", {"commit": COMMIT}), ("kaggle", {"version": KAGGLE_VERSION})):
            output = tmp_path / source
            status, text = download(hub, output, source=source)
            assert status == 0, text
            assert read_splits(output) == normalised
            origin = json.loads((output / "dataset.json").read_text())["origin"]
            assert origin == {
                "source": source,
                "handle": {"huggingface": "openai/gsm8k", "kaggle": KAGGLE_HANDLE}[source],
                **found,
                "sha256": gsm8k.published_hashes(),
            }
    assert not [request for request in hub.requests if "socratic" in request.path]


@pytest.mark.slow
def test_the_workflow_gets_gsm8k_from_each_source_and_leaves_no_token_anywhere(hub, raw, normalised, tmp_path):
    put_gsm8k(hub, raw)
    for repository in (*hub.huggingface.values(), *hub.kaggle.values()):
        repository.gated = True
    project = tmp_path / "project"
    for name in ("Snakefile", "config.yaml", "rules", "profiles", "recipes", "schemas", "scripts", "envs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        project.mkdir(exist_ok=True)
        copy(ROOT / name, project / name)
    sources = ["huggingface", "kaggle"]
    if TFDS_PYTHON.exists():
        (project / ".venv-tfds").symlink_to(TFDS_PYTHON.parents[1])
        sources.append("tfds")
    for source in sources:
        target = f"results/data/{source}/dataset.json"
        chosen = f"dataset={{name: {source}, source: {source}, train_rows: null, test_rows: null}}"
        command = [sys.executable, "-m", "snakemake", "--cores", "1", target, "--config", chosen]
        known = CREDENTIALS["huggingface"] | CREDENTIALS["kaggle"]
        status, text = hub.run(command, cwd=project, **known)
        assert status == 0, text
        assert read_splits(project / "results" / "data" / source) == normalised
    assert sum(request.authorised for request in hub.requests) > 4
    assert_no_secret_below(hub.folder)  # caches, home, results, logs and Snakemake's own records


def test_other_rows_than_the_published_ones_are_refused_and_nothing_is_written(hub, raw, tmp_path):
    swapped = {**raw, "test": [raw["test"][1], raw["test"][0], *raw["test"][2:]]}
    put_gsm8k(hub, swapped)
    output = tmp_path / "data"
    status, text = download(hub, output, source="huggingface")
    assert status == 1 and "ERROR: GSM8K from huggingface (openai/gsm8k): these are not GSM8K's test rows" in text
    put_gsm8k(hub, {**raw, "train": raw["train"][:-1]})
    status, text = download(hub, output, source="kaggle")
    assert status == 1 and "7,472 rows, GSM8K's train has 7,473; take another source" in text
    assert not output.exists()


def test_rows_that_are_not_utf8_are_refused_in_one_sentence(hub, raw, tmp_path):
    put_gsm8k(hub, raw)
    repository = hub.kaggle[f"dataset/{KAGGLE_HANDLE}"]
    repository.files["main_train.csv"] += b"\xff"
    status, text = download(hub, tmp_path / "data", source="kaggle")
    assert status == 1 and "Traceback" not in text
    assert "main_train.csv: cannot be read as CSV (not UTF-8); save it as UTF-8 again" in text


def test_a_notebooks_mounted_folder_is_read(hub, notebook, raw, normalised, tmp_path):
    put_gsm8k(hub, raw)
    environment = notebook(hub.kaggle[f"dataset/{KAGGLE_HANDLE}"].files)
    status, text = download(hub, tmp_path / "data", source="kaggle", environment=environment)
    assert status == 0, text
    assert read_splits(tmp_path / "data") == normalised
    assert not hub.requests


def test_a_cut_download_from_kaggle_resumes_and_failures_name_the_data_set(hub, raw, tmp_path):
    assert (
        "ERROR: dataset.handle: Kaggle has no someone/else: check"
        in download(hub, tmp_path / "data", source="kaggle", handle="someone/else")[1]
    )
    put_gsm8k(hub, raw)
    hub.cuts["archive"] = [3 * MIB // 2]
    status, text = download(hub, tmp_path / "data", source="kaggle")
    assert status == 0, text
    assert hub.resumed("archive") == [MIB]
