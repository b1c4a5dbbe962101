"""Publishing an export: the real client, in processes of its own, and a hub on the loopback."""

import io
import sys
import zipfile

import pytest

from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.huggingface.export import replace_export
from loopback_hubs import CREDENTIALS, Hubs, assert_no_secret_below

FILES = {
    "README.md": b"---\nlicense: gemma\n---\n# Card\n\n---\nThe line above is no metadata.\n",
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "adapter/adapter_model.safetensors": b"adapters",
}


@pytest.fixture
def hub(tmp_path):
    (tmp_path / "hub-side").mkdir()
    made = Hubs(tmp_path / "hub-side")
    yield made
    made.close()
    storage = [request for request in made.requests if request.host in ("cdn-lfs.hf.co", "storage.googleapis.com")]
    assert not any(request.authorised for request in storage)  # only the hub itself may see the token
    assert_no_secret_below(tmp_path / "results")


@pytest.fixture
def publish(hub, tmp_path):
    """Publishes tmp_path's export of `tiny`; returns (exit status, all output)."""

    def call(*arguments, to="someone/tiny", **environment):
        command = [sys.executable, str(ROOT / "scripts/publish.py"), "--recipe", "tiny", "--to", to, *arguments]
        return hub.run(command, cwd=tmp_path, **(CREDENTIALS["huggingface"] | CREDENTIALS["kaggle"] | environment))

    return call


def export(folder, contents, name="export"):
    """Exports files as the stage does."""

    def write(making):
        for name, content in contents.items():
            (making / name).parent.mkdir(parents=True, exist_ok=True)
            (making / name).write_bytes(content)
        return {"recipe": "tiny"}

    replace_export(folder / "results/tiny" / name, write)


@pytest.mark.slow
def test_an_export_is_published_in_one_commit_and_replaces_another_only_when_told(hub, publish, tmp_path):
    export(tmp_path, FILES)
    hub.statuses["/commit/"] = [503]  # tried again
    status, text = publish()
    assert status == 0, text
    repository = hub.huggingface["model/someone/tiny"]
    assert f"published: https://huggingface.co/someone/tiny/commit/{1:040x}" in text
    manifest = tmp_path / "results/tiny/export/export.json"
    first = FILES | {"export.json": manifest.read_bytes(), ".gitattributes": b"*"}
    assert repository.files == first and repository.private and repository.commits == 1

    export(tmp_path, {"README.md": FILES["README.md"], "config.json": b'{"new": 1}'})
    status, text = publish()
    assert (
        status == 1
        and ("ERROR: --to: someone/tiny already has 5 files (README.md): add --replace to replace them all, or") in text
    )
    assert repository.files == first

    hub.statuses["/commit/"] = [412]  # someone else's commit came between
    status, text = publish("--replace")
    assert status == 1 and "ERROR: --to: someone/tiny changed during the upload: look at what is new there" in text
    assert repository.files == first
    status, text = publish("--replace")
    assert status == 0, text
    kept = {".gitattributes": b"*", "README.md": FILES["README.md"]}
    assert repository.files == kept | {"config.json": b'{"new": 1}', "export.json": manifest.read_bytes()}


@pytest.mark.slow
def test_what_cannot_be_published_is_said_in_one_sentence(hub, publish, tmp_path):
    status, text = publish()
    assert status == 1 and "ERROR: results/tiny/export/export.json: no such file; make the export first" in text
    assert "results/tiny/export/export.json, with the --config of its run" in text  # which tiny alone does without
    export(tmp_path, FILES)
    status, text = publish(HF_TOKEN="")
    assert status == 1 and "ERROR: --to: Hugging Face does not let you write to someone/tiny: create a token" in text
    status, text = publish(to="a b/c/d")
    assert status == 1 and "ERROR: --to: 'a b/c/d' is not the name of a repository; expected OWNER/NAME" in text
    (tmp_path / "results/tiny/export/config.json").write_text("edited by hand")
    status, text = publish()
    assert status == 1 and "export/config.json: is missing or was changed after the export" in text
    assert not hub.huggingface


def test_a_repository_is_public_only_when_asked_for(hub, publish, tmp_path):
    export(tmp_path, {"config.json": b"{}"})
    status, text = publish("--public")
    assert status == 0, text
    assert not hub.huggingface["model/someone/tiny"].private


KAGGLE = "someone/gemma/transformers/tiny"


def test_on_kaggle_the_first_version_needs_no_option_and_the_second_does(hub, publish, tmp_path):
    export(tmp_path, {"README.md": FILES["README.md"]})
    status, text = publish(to=KAGGLE)
    assert status == 0 and f"{KAGGLE} (version 1)" in text, text
    made = hub.kaggle[f"model/{KAGGLE}"]
    status, text = publish(to=KAGGLE)
    assert status == 1 and f"{KAGGLE} has version 1 already: add --replace" in text
    assert hub.kaggle[f"model/{KAGGLE}"] is made


@pytest.mark.slow
def test_on_kaggle_an_export_is_a_version_and_a_newer_one_is_added_only_when_told(hub, publish, tmp_path):
    export(tmp_path, FILES)
    (tmp_path / "results/tiny/export/notes.md").write_text("mine")  # no part of the export
    hub.statuses["StartBlobUpload"] = [503]  # tried again
    status, text = publish(to=KAGGLE)
    assert status == 0, text
    assert f"published: https://kaggle.com/models/{KAGGLE} (version 1)" in text
    manifest = tmp_path / "results/tiny/export/export.json"
    first, made = FILES | {"export.json": manifest.read_bytes()}, hub.kaggle[f"model/{KAGGLE}"]
    assert (made.files, made.private, made.licence) == (first, True, None)

    second = {"README.md": FILES["README.md"].replace(b"gemma", b"apache-2.0"), "config.json": b"{}"}
    export(tmp_path, second)
    status, text = publish(to=KAGGLE)
    assert status == 1 and f"ERROR: --to: {KAGGLE} has version 1 already: add --replace to upload a newer" in text
    assert hub.kaggle[f"model/{KAGGLE}"] is made
    status, text = publish("--replace", to=KAGGLE)
    assert status == 0 and f"{KAGGLE} (version 2)" in text, text
    assert hub.kaggle[f"model/{KAGGLE}"].files == second | {"export.json": manifest.read_bytes()}
    status, text = publish(to="someone/gemma/transformers/other")
    assert status == 0 and hub.kaggle["model/someone/gemma/transformers/other"].licence == "Apache 2.0", text


@pytest.mark.slow
def test_a_checkpoint_of_many_files_for_tunix_goes_to_kaggle_and_to_hugging_face(hub, publish, tmp_path):
    checkpoint = {f"30/model_params/d/{index}": bytes([index]) for index in range(60)}
    export(tmp_path, {"README.md": FILES["README.md"], **checkpoint}, "export-tunix")
    status, text = publish("--kind", "tunix", to=KAGGLE)
    assert status == 1 and "is of the framework transformers, but an export for tunix is of the framework jax" in text
    status, text = publish("--kind", "tunix", to="someone/gemma/jax/tiny")
    assert status == 0, text
    (packed,) = hub.kaggle["model/someone/gemma/jax/tiny"].files.items()  # which Kaggle unpacks
    with zipfile.ZipFile(io.BytesIO(packed[1])) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    manifest = (tmp_path / "results/tiny/export-tunix/export.json").read_bytes()
    assert packed[0] == "archive.zip" and found == {
        "README.md": FILES["README.md"],
        "export.json": manifest,
        **checkpoint,
    }
    status, text = publish("--kind", "tunix")
    assert status == 0 and hub.huggingface["model/someone/tiny"].files.keys() == {*found, ".gitattributes"}, text


@pytest.mark.slow
def test_what_kaggle_refuses_is_said_in_one_sentence(hub, publish, tmp_path):
    export(tmp_path, FILES)
    status, text = publish(to=KAGGLE, KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert status == 1 and f"ERROR: --to: Kaggle does not let you write to {KAGGLE}: it must be of your account" in text
    status, text = publish("--public", to=KAGGLE)
    assert status == 1 and "ERROR: --public: Kaggle's client makes private models; make" in text
    hub.statuses["/CreateModelInstance"] = [400]
    status, text = publish(to=KAGGLE)
    assert status == 1 and f"ERROR: --to: {KAGGLE}: Kaggle refused (status 400)" in text
    hub.statuses["/GetModelInstance"] = [503] * 4
    status, text = publish(to=KAGGLE)
    assert status == 1 and "could not be written in 4 attempts (status 503): check the connection" in text
    assert "Traceback" not in text and not hub.kaggle
