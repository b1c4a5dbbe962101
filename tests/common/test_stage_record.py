"""The record of a stage: what it makes beside its outputs counts too."""

import json
import shutil

import pytest

from gsm8k_grpo.common import provenance
from gsm8k_grpo.common.stage_record import StageRecord


@pytest.mark.parametrize(("stage", "taken_over"), [("tfds_rows", True), ("download", False)])
def test_other_versions_matter_unless_a_stage_has_an_environment_of_its_own(monkeypatch, tmp_path, stage, taken_over):
    """Snakemake's environment asks about records that TensorFlow's wrote."""
    output = tmp_path / "origin.json"
    output.write_text("{}")
    asked = (tmp_path / "record.json", ["python3", f"scripts/{stage}.py"], "code", [], [])
    StageRecord(*asked).write([output])
    monkeypatch.setattr(provenance, "PACKAGES", ("pytest",))
    assert (StageRecord(*asked).differences([output]) == []) is taken_over


@pytest.mark.parametrize(
    ("output", "content", "beside"),
    [
        ("model.json", {}, "weights/0"),
        ("checkpoints.json", {"checkpoints": [{"path": "runs/f/checkpoints/actor/4"}]}, "runs/f/checkpoints/actor/4/w"),
        ("export.json", {"files": {"adapter/model.safetensors": "hash"}}, "adapter/model.safetensors"),
    ],
)
def test_weights_checkpoints_and_exported_files_must_be_there_and_whole(tmp_path, output, content, beside):
    made, weights = tmp_path / output, tmp_path / beside
    made.write_text(json.dumps(content))
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"whole")
    record = StageRecord(tmp_path / "record.json", ["python3", "scripts/x.py"], "code", [], [])
    assert record.differences([made]) is None
    record.write([made])
    assert record.differences([made]) == []
    weights.write_bytes(b"while")
    (changed,) = record.differences([made])
    assert changed.endswith(" changed") and str(tmp_path) in changed
    shutil.rmtree(weights.parent)
    (missing,) = record.differences([made])
    assert missing.endswith(": is missing")
    made.write_text('{"checkpoi')  # torn: it vouches for nothing
    assert record.differences([made])
