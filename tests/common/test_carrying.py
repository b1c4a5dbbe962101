"""The archive of what a next session needs."""

import contextlib
import json
import resource
import signal
import subprocess
import sys
import tarfile

import pytest

from gsm8k_grpo.common import carrying
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.layout import ROOT

CARRIED = {
    "data/gsm8k/train.jsonl": "rows",
    "models/mini/model.json": json.dumps({"origin": {"source": "pretrained"}}),
    "models/mini/weights/d/0": "made here",
    "models/gemma/model.json": json.dumps({"origin": {"source": "kaggle"}}),
    "models/gemma/tokenizer.model": "pieces",
    "records/train-tiny.json": "{}",
    "tiny/evaluations-dev/base/unfinished-1.jsonl": "half",
    "tiny/training/runs/f/checkpoints/actor/8/weights": "adapters",
    "tiny/training/runs/f/metrics.jsonl": "rows",
}
LEFT = (
    "README.md",
    "cache/jax/program",
    "models/gemma/weights/d/0",
    "models/gemma/published/config.json",
    "tiny/training/runs/f/set-aside/4/weights",
    "tiny/export/model.safetensors",
    "tiny/export-tunix/30/model_params/manifest.ocdbt",
    "tiny/export-gguf/model.gguf",
    "tiny/export/.making.x/model.safetensors",
)


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for name, text in {**CARRIED, **dict.fromkeys(LEFT, "x")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_what_a_next_session_needs_is_carried_and_what_it_can_get_is_not(results, tmp_path):
    archive, clone = tmp_path / "carry.tar", tmp_path / "clone" / "results"
    carrying.pack(results, archive, list(carrying.files_to_carry(results)))
    clone.mkdir(parents=True)
    (clone / "README.md").write_text("the page")
    assert carrying.unpack(archive, clone) == len(CARRIED)
    found = {path.relative_to(clone).as_posix(): path.read_text() for path in clone.rglob("*") if path.is_file()}
    assert found == {**CARRIED, "README.md": "the page"}
    with pytest.raises(PipelineError, match=r"has files already .*; restore into a fresh clone"):
        carrying.unpack(archive, clone)


def test_a_folder_that_lies_on_another_disk_is_carried_too(results, tmp_path):
    (results / "tiny").rename(tmp_path / "larger")
    (results / "tiny").symlink_to(tmp_path / "larger")
    assert {path.relative_to(results).as_posix() for path in carrying.files_to_carry(results)} == set(CARRIED)


def test_a_cut_or_missing_archive_is_an_error_that_names_it(results, tmp_path):
    archive, clone = tmp_path / "carry.tar", tmp_path / "clone"
    with pytest.raises(PipelineError, match=r"carry\.tar: no such file"):
        carrying.unpack(archive, clone)
    carrying.pack(results, archive, list(carrying.files_to_carry(results)))
    archive.write_bytes(archive.read_bytes()[:700])
    with pytest.raises(PipelineError, match=r"carry\.tar: is no whole archive"):
        carrying.unpack(archive, clone)
    assert not list(clone.iterdir())


def test_an_archive_that_is_cut_or_damaged_between_its_files_leaves_nothing_behind(results, tmp_path):
    """There, Python's tarfile takes what comes before for the whole archive."""
    archive, clone = tmp_path / "carry.tar", tmp_path / "clone"
    carrying.pack(results, archive, list(carrying.files_to_carry(results)))
    whole = archive.read_bytes()
    with tarfile.open(archive) as packed:
        third = packed.getmembers()[2].offset
    for torn in (whole[:third], whole[: third + 100], whole[:third] + b"\xff" * 100 + whole[third + 100 :]):
        archive.write_bytes(torn)
        with pytest.raises(PipelineError, match=r"whole archive of carry\.py \(it ends or is damaged after 2 files\)"):
            carrying.unpack(archive, clone)
        assert not list(clone.iterdir())


def test_what_is_no_archive_of_this_project_is_refused(tmp_path):
    archive, clone = tmp_path / "carry.tar", tmp_path / "clone"
    (tmp_path / "paper.txt").write_text("another project's")
    with tarfile.open(archive, "w") as packed:
        packed.add(tmp_path / "paper.txt", arcname="paper/paper.txt")
    with pytest.raises(PipelineError, match=r"none of the folders data, logs, models, records\); copy it again"):
        carrying.unpack(archive, clone)
    archive.write_text("a page, not an archive\n" * 100)
    with pytest.raises(PipelineError, match=r"carry\.py \(file could not be opened successfully\); copy it again$"):
        carrying.unpack(archive, clone)
    with pytest.raises(PipelineError, match=r"no such file; name the archive"):
        carrying.unpack(tmp_path, clone)
    assert not list(clone.iterdir())


@pytest.mark.parametrize(("place", "said"), [("results/data", "carry itself"), ("nowhere", "is no folder")])
def test_a_place_where_no_archive_can_lie_is_named(results, tmp_path, place, said):
    command = [sys.executable, "scripts/carry.py", "--results", results, "--archive", tmp_path / place / "carry.tar"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("ERROR: --archive: ") and said in done.stderr


def test_a_file_that_a_stage_removes_meanwhile_is_named(results, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import carry

    gone = results / "tiny/training/runs/f/checkpoints/actor/8/weights"
    pack = carrying.pack
    monkeypatch.setattr(carrying, "pack", lambda *arguments: (gone.unlink(), pack(*arguments)))
    with pytest.raises(PipelineError, match=r"8/weights: is gone since packing began; wait until no stage runs"):
        carry.main(archive=tmp_path / "carry.tar", results=results)
    assert not [path for path in tmp_path.iterdir() if "carry" in path.name]


@pytest.mark.parametrize("name", ["../outside.json", "/tmp/outside.json", "a/../../outside.json"])
def test_an_archive_that_leads_out_of_the_folder_writes_nothing(tmp_path, name):
    archive, clone = tmp_path / "carry.tar", tmp_path / "clone"
    with tarfile.open(archive, "w") as packed:
        packed.addfile(tarfile.TarInfo("inside.json"))
        packed.addfile(tarfile.TarInfo(name))
    with pytest.raises(PipelineError, match=r"carry\.tar: is no whole archive .*outside\.json is no plain file"):
        carrying.unpack(archive, clone)
    assert not list(clone.iterdir()) and not (tmp_path / "outside.json").exists()


@contextlib.contextmanager
def files_up_to(limit_bytes):
    """In it, a larger file ends in an error, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)


def test_results_that_do_not_fit_leave_no_half_of_themselves(results, tmp_path):
    archive, clone = tmp_path / "carry.tar", tmp_path / "clone"
    (results / "data/gsm8k/train.jsonl").write_text("x" * 2000)
    carrying.pack(results, archive, list(carrying.files_to_carry(results)))
    with files_up_to(1000), pytest.raises(OSError, match="File too large") as failed:
        carrying.unpack(archive, clone)
    assert failed.value.filename == str(clone) and not list(clone.iterdir())


def test_an_archive_that_does_not_fit_leaves_no_half_of_itself(results, tmp_path):
    archive = tmp_path / "carry.tar"
    with files_up_to(1000), pytest.raises(OSError, match="File too large") as failed:
        carrying.pack(results, archive, list(carrying.files_to_carry(results)))
    assert failed.value.filename == str(archive)
    assert not [path for path in tmp_path.iterdir() if "carry" in path.name]
