"""A model in a local folder: its origin, the hashes of its files, and what is refused."""

import json
import time

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import hubs, model_files

INDEX, SHARDS = "model.safetensors.index.json", ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of a model in two shards."""
    contents = {
        "config.json": '{"model_type": "gemma2"}',
        "tokenizer.model": "pieces",
        INDEX: json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}),
        **dict.fromkeys(SHARDS, "tensors"),
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def fetch(folder):
    return hubs.fetch_model({"source": "local", "path": str(folder), "handle": None, "revision": None})


def test_a_local_folder_is_used_in_place(folder):
    found, origin = fetch(folder)
    assert found == folder and set(origin["files"]) == {"config.json", "tokenizer.model", INDEX, *SHARDS}
    assert origin == {
        "source": "local",
        "path": str(folder),
        "files": model_files.hashes(folder),
        "warning": None,
    }


def test_files_that_have_not_changed_are_not_hashed_again(folder):
    hashes = model_files.local_hashes(folder)
    known, since = {name: {**facts, "sha256": "known"} for name, facts in hashes.items()}, time.time()
    assert model_files.local_hashes(folder, known, since) == known
    assert model_files.local_hashes(folder, known, since - 3600) == hashes
    # A model.json that is dated in the future does not hide what changes until then.
    assert model_files.local_hashes(folder, known, since + 3600) == hashes


def test_only_the_models_own_files_are_hashed(folder):
    (folder / "notes.bin").write_text("not the model's")
    assert "notes.bin" not in model_files.local_hashes(folder)
    (folder / "config.json").unlink()
    assert model_files.local_hashes(folder) == {}  # not a model: nothing in the folder is read


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        (
            SHARDS[0],
            None,
            "{folder}: model-00001-of-00002.safetensors is missing (1 of 2 safetensors files are); fetch",
        ),
        ("tokenizer.model", None, "{folder}: no tokenizer.json or tokenizer.model; copy the model's own there"),
        ("config.json", '{"model_type": "lfm2"}', "LFM2 is not supported: Tunix has no such model"),
        ("config.json", None, "{folder}: expected config.json, a tokenizer and safetensors"),
        (INDEX, "[]", "index.json: expected a JSON object, found list"),
        *(
            (INDEX, text, "is missing, empty or not a table; fetch the model again")
            for text in ("{}", '{"weight_map": ["a"]}', '{"weight_map": null}', '{"weight_map": {"a": 1}}')
        ),
    ],
)
def test_a_folder_without_a_whole_model_is_refused(folder, name, text, fault):
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(PipelineError) as refused:
        fetch(folder)
    assert fault.replace("{folder}", str(folder)) in str(refused.value)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "tokenizer.model", SHARDS[1]])
def test_a_link_that_leads_out_of_the_folder_is_refused_and_not_hashed(folder, tmp_path_factory, name):
    secret = tmp_path_factory.mktemp("home") / "kaggle.json"
    secret.write_text('{"key": "secret"}')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(PipelineError) as refused:
        fetch(folder)
    assert f"{folder / name}: leads out of the model's folder, to {secret}, and is not followed" in str(refused.value)
    assert name not in model_files.local_hashes(folder)


def test_a_name_in_the_index_that_leads_out_of_the_folder_is_refused(folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(PipelineError, match=r"\.\./elsewhere\.safetensors: leads out of the model's folder"):
        fetch(folder)


def test_a_linked_folder_of_a_flax_checkpoint_is_refused(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "model"
    for path in (elsewhere / "_METADATA", folder / "tokenizer.model"):
        path.parent.mkdir()
        path.write_text("{}")
    (folder / "gemma2").symlink_to(elsewhere)
    with pytest.raises(PipelineError, match=r"model/gemma2: leads out of the model's folder"):
        fetch(folder)


@pytest.mark.parametrize("shared", [False, True])
def test_links_within_the_folder_and_into_hugging_faces_own_blobs_are_followed(folder, tmp_path_factory, shared):
    cache = tmp_path_factory.mktemp("hub")
    model = cache / "models--someone--small"
    snapshot, blobs = model / "snapshots" / ("a" * 40), model / "blobs"
    for new in (snapshot, blobs, cache / "blobs" / "ab"):
        new.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = blobs / str(number)
        if shared:
            (cache / "blobs" / "ab" / str(number)).write_bytes(path.read_bytes())
            blob.symlink_to(f"../../blobs/ab/{number}")
        else:
            blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "tokenizer.json").symlink_to("tokenizer.model")
    linked = tmp_path_factory.mktemp("models") / "small"
    linked.symlink_to(snapshot)  # the folder itself may be a link
    expected = model_files.hashes(folder)
    for each in (snapshot, linked):
        found, origin = fetch(each)
        assert found == each and origin["files"] == {**expected, "tokenizer.json": expected["tokenizer.model"]}


def test_a_path_that_is_not_a_folder_is_refused(tmp_path):
    with pytest.raises(PipelineError, match=r"^model\.path: .*/none is not a folder; name the one with the model's"):
        fetch(tmp_path / "none")
