"""TensorBoard and Weights & Biases get the rows of metrics.csv, each step once, also when a run resumes."""

import resource
import struct
import sys

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import read_only
from gsm8k_grpo.grpo.trackers import Trackers, tensorboard

ROWS = [{"step": step, "loss": step / 4, "kl": None, "reward": -step} for step in (1, 2, 3)]
OFF = read_only({"wandb_project": None, "lora": {"rank": 4}})


def scalars(folder):
    """(step, name, value) in all event files of a folder, in order (TFRecord: length, CRC, data, CRC)."""
    found, Event = [], tensorboard.proto.event_pb2.Event
    for path in sorted(folder.rglob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return found


def test_tensorboard_has_each_step_once_also_after_a_restart(tmp_path):
    expected = [(row["step"], name, row[name]) for row in ROWS for name in ("loss", "reward")]
    first = Trackers(tmp_path, [], OFF, "run")
    for row in ROWS[:2]:
        first.log(row)
    first.close()
    assert scalars(tmp_path) == expected[:4]
    again = Trackers(tmp_path, ROWS[:1], OFF, "run")  # step 2 was lost in a kill
    for row in ROWS[1:]:
        again.log(row)
    again.close()
    assert scalars(tmp_path) == expected


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path):
    """Of files that may have 2 KB: the same errors as of a full disk."""
    tracked, limits = Trackers(tmp_path, [], OFF, "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*tensorboard'"):
            for step in range(1000):
                tracked.log({"step": step, "loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.slow
def test_weights_and_biases_is_offline_without_a_login(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    settings = read_only({"wandb_project": "mine", "lora": {"rank": 4}})
    tracked = Trackers(tmp_path, [], settings, "fingerprint")
    for row in ROWS:
        tracked.log(row)
    tracked.close()
    (written,) = tmp_path.glob("wandb/offline-run-*/run-fingerprint.wandb")
    content = written.read_bytes()
    for text in (b"mine", b"rank", b"loss", b"reward"):
        assert text in content


def test_without_a_project_weights_and_biases_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    Trackers(tmp_path, ROWS, OFF, "run").close()
    assert not (tmp_path / "wandb").exists()
    with pytest.raises(PipelineError, match=r"training.wandb_project: the package wandb is not installed"):
        Trackers(tmp_path, ROWS, read_only({"wandb_project": "mine"}), "run")
