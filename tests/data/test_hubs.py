"""Models from the hubs: the real clients, in processes of their own, fetch them from hubs on the loopback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gsm8k_grpo.data import model_files
from loopback_hubs import COMMIT, CREDENTIALS, HF_TOKEN, KAGGLE_KEY, KAGGLE_VERSION, assert_no_secret_below

FETCH = """
import json, sys
import huggingface_hub  # as Tunix does, before our code can set anything
from gsm8k_grpo.common import errors
from gsm8k_grpo.data import hubs, retries

retries.FIRST_PAUSE_SECONDS = 0.01

def stage():
    folder, origin = hubs.fetch_model(json.loads(sys.argv[1]))
    print(json.dumps([str(folder), origin]))

errors.exit_on_error(stage)
"""
MIB = 2**20
HANDLES = {"huggingface": "google/gemma-2-2b-it", "kaggle": "google/gemma-2/flax/gemma2-2b-it"}
LARGE_FILES = {"huggingface": "model-00002-of-00002.safetensors", "kaggle": "manifest.ocdbt"}
CACHES = {"huggingface": "HF_HOME", "kaggle": "KAGGLEHUB_CACHE"}


def model(source, **changes):
    return {"source": source, "handle": HANDLES.get(source), "revision": None, "path": None, **changes}


@pytest.fixture
def large(hub):
    """The contents of the large files."""
    return hub.kaggle[f"model/{HANDLES['kaggle']}"].files["gemma2-2b-it/manifest.ocdbt"]


def fetch(hub, settings, credentials=True, **options):
    """(folder, origin, output) of a fetched model."""
    known = CREDENTIALS.get(settings["source"], {}) if credentials else {}
    status, text = hub.run([sys.executable, "-c", FETCH, json.dumps(settings)], **known, **options)
    assert status == 0, text
    folder, origin = json.loads(text.splitlines()[-1])
    return Path(folder), origin, text


def refused(hub, settings, credentials=True, **options):
    """The one sentence that a fetch ends with."""
    known = CREDENTIALS.get(settings["source"], {}) if credentials else {}
    status, text = hub.run([sys.executable, "-c", FETCH, json.dumps(settings)], **known, **options)
    assert status == 1 and "Traceback" not in text, text
    (error,) = [line for line in text.splitlines() if line.startswith("ERROR: ")]
    return error.removeprefix("ERROR: ")


def clear_cache(hub, source):
    shutil.rmtree(hub.folder / {"huggingface": "huggingface", "kaggle": "kagglehub"}[source])


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_model_is_fetched_with_its_origin_and_then_used_without_a_network(hub, source):
    revision = {"huggingface": COMMIT, "kaggle": KAGGLE_VERSION}[source]
    folder, origin, text = fetch(hub, model(source, revision=revision))
    assert origin["warning"] is None and "WARNING" not in text
    assert origin["revision"] == revision
    assert (origin.get("commit"), origin.get("version")) in ((COMMIT, None), (None, KAGGLE_VERSION))
    published = getattr(hub, source)[f"model/{HANDLES[source]}"].files
    wanted = {name for name in published if not name.endswith((".bin", ".gguf", ".pth"))}
    assert origin["files"].keys() == wanted == {name for name in model_files.hashes(folder)}
    assert all((folder / name).read_bytes() == published[name] for name in wanted)
    assert {name: facts["bytes"] for name, facts in origin["files"].items()} == {
        name: len(published[name]) for name in wanted
    }
    assert_no_secret_below(hub.folder)
    hub.close()
    seen = len(hub.requests)
    assert fetch(hub, model(source, revision=revision), credentials=False)[:2] == (folder, origin)
    assert fetch(hub, model(source, revision=revision), credentials=False, HF_HUB_OFFLINE="1")[:2] == (folder, origin)
    assert len(hub.requests) == seen


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_revision_that_can_move_is_recorded_and_warned_about(hub, source):
    folder, origin, text = fetch(hub, model(source))
    resolved = {"huggingface": f"commit {COMMIT}", "kaggle": f"version {KAGGLE_VERSION}"}[source]
    assert origin["warning"].startswith(
        f"model.revision: none is given, so the newest was taken: it is now {resolved}; write that there"
    )
    assert f"WARNING: {origin['warning']}\n" in text
    hub.close()  # without a network, the newest cached version is used
    assert fetch(hub, model(source))[:2] == (folder, origin)
    assert fetch(hub, model(source), HF_HUB_OFFLINE="1")[:2] == (folder, origin)


def test_a_tag_resolves_to_a_commit_and_is_warned_about(hub):
    _, origin, _ = fetch(hub, model("huggingface", revision="v1"))
    assert (origin["revision"], origin["commit"]) == ("v1", COMMIT)
    assert origin["warning"].startswith(f"model.revision: 'v1' can move: it is now commit {COMMIT};")


@pytest.mark.parametrize(
    ("source", "credentials", "accepted", "sentence"),
    [
        (
            "huggingface",
            False,
            False,
            "model.handle: google/gemma-2-2b-it is gated: accept its licence at https://huggingface.co/google/gemma-2-2b-it"
            ", create a token at https://huggingface.co/settings/tokens, set HF_TOKEN to it, then run the same command "
            "again",
        ),
        (
            "huggingface",
            True,
            False,
            "model.handle: google/gemma-2-2b-it is gated: accept its licence at https://huggingface.co/google/gemma-2-2b-it"
            " with the account of your token, then run the same command again",
        ),
        (
            "kaggle",
            False,
            False,
            "model.handle: Kaggle needs credentials for google/gemma-2/flax/gemma2-2b-it: accept its licence at "
            "https://www.kaggle.com/models/google/gemma-2, create a token at https://www.kaggle.com/settings and set "
            "KAGGLE_USERNAME and KAGGLE_KEY, or put its kaggle.json into ~/.kaggle",
        ),
        (
            "kaggle",
            True,
            False,
            "model.handle: Kaggle refuses google/gemma-2/flax/gemma2-2b-it to this account: accept its licence at "
            "https://www.kaggle.com/models/google/gemma-2, then try again",
        ),
    ],
    ids=["huggingface, nobody", "huggingface, not accepted", "kaggle, nobody", "kaggle, not accepted"],
)
def test_missing_credentials_and_licences_are_named(hub, source, credentials, accepted, sentence):
    getattr(hub, source)[f"model/{HANDLES[source]}"].accepted = accepted
    assert refused(hub, model(source), credentials) == sentence


def test_a_missing_repository_or_revision_is_named(hub):
    missing = "google/gemma-9"
    page = "https://huggingface.co/google/gemma-9"
    assert refused(hub, model("huggingface", handle=missing)).startswith(
        f"model.handle: there is no model google/gemma-9 at {page}, or it is hidden from you: "
    )
    assert "if it is private or gated, set HF_TOKEN" in refused(hub, model("huggingface", handle=missing), False)
    assert refused(hub, model("huggingface", revision="v9")).startswith(
        "model.revision: google/gemma-2-2b-it has no revision 'v9': see https://huggingface.co/google/gemma-2-2b-it/commits"
    )
    assert refused(hub, model("kaggle", handle="google/gemma-9/flax/x")).startswith(
        "model.handle: Kaggle has no google/gemma-9/flax/x: check model.handle and model.revision against "
        "https://www.kaggle.com/models/google/gemma-9"
    )
    assert "has no google/gemma-2/flax/gemma2-2b-it in version 9:" in refused(hub, model("kaggle", revision=9))


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_cut_download_resumes(hub, source, large):
    name = LARGE_FILES[source]
    # kagglehub first asks for the whole file, reads none of it, and then asks for what is missing.
    hub.cuts[name] = [13 * MIB, *([None] if source == "kaggle" else []), 21 * MIB // 2]
    folder, _, _ = fetch(hub, model(source))
    (path,) = folder.rglob(name)
    assert path.read_bytes() == large
    # The clients write whole blocks, of 10 MiB and of 1 MiB: an incomplete block is fetched again.
    starts = {"huggingface": [0, 10 * MIB, 20 * MIB], "kaggle": [0, 13 * MIB, 23 * MIB]}[source]
    assert [0, *hub.resumed(name)] == starts


@pytest.mark.slow
@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_the_next_run_resumes_a_failed_download(hub, source):
    name = LARGE_FILES[source]
    hub.cuts[name] = [13 * MIB] + [0] * 40
    sentence = refused(hub, model(source))
    assert "in 4 attempts (the connection was cut)" in sentence and "goes on from what has been" in sentence
    hub.cuts.clear()
    hub.requests.clear()
    fetch(hub, model(source))
    assert hub.resumed(name) == [{"huggingface": 10 * MIB, "kaggle": 13 * MIB}[source]]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_file_with_a_wrong_checksum_is_fetched_again_and_then_refused(hub, source, large):
    name = LARGE_FILES[source]
    hub.damaged[name] = 1
    folder, _, text = fetch(hub, model(source))
    assert (next(folder.rglob(name))).read_bytes() == large
    assert "attempt 1 of 4 failed (a wrong checksum); trying again" in text
    clear_cache(hub, source)
    hub.damaged[name] = 99
    assert "arrived damaged 4 times (another checksum than at" in refused(hub, model(source))
    hub.damaged.clear()
    assert (next(fetch(hub, model(source))[0].rglob(name))).read_bytes() == large


def test_a_file_damaged_in_the_cache_is_found_and_fetched_again(hub, large):
    folder, origin, _ = fetch(hub, model("huggingface"))
    blob = (folder / LARGE_FILES["huggingface"]).resolve()
    blob.write_bytes(large[:-1] + b"?")
    assert fetch(hub, model("huggingface"))[1] == origin


@pytest.mark.slow
def test_a_cache_that_another_program_filled_in_part_is_completed_or_refused(hub):
    """`AutoModel.from_pretrained` leaves a cache without the files of tokenizer and generation, and without a list."""
    repository = hub.huggingface["model/google/gemma-2-2b-it"]
    repository.files.update({"tokenizer_config.json": b"{}", "generation_config.json": b"{}"})
    folder, whole, _ = fetch(hub, model("huggingface"))

    def partial():
        shutil.rmtree(folder.parents[1] / "trees")
        (folder / "tokenizer_config.json").unlink()

    partial()
    sentence = refused(hub, model("huggingface"), HF_HUB_OFFLINE="1")
    assert "google/gemma-2-2b-it is not complete in" in sentence and "tokenizer_config.json is missing, and" in sentence
    assert fetch(hub, model("huggingface"))[:2] == (folder, whole)  # with a network, the file is fetched
    assert fetch(hub, model("huggingface"), HF_HUB_OFFLINE="1")[:2] == (folder, whole)
    partial()
    hub.close()
    assert "google/gemma-2-2b-it is not complete in" in refused(hub, model("huggingface"))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_limit_of_file_sizes_is_one_sentence_and_the_next_run_resumes(hub, source):
    sentence = refused(hub, model(source), limit_bytes=12 * MIB)
    assert sentence.startswith("model.handle: no space left in ") and f"set {CACHES[source]} to a folder" in sentence
    hub.requests.clear()
    fetch(hub, model(source))
    (start,) = hub.resumed(LARGE_FILES[source])
    assert 0 < start <= 12 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_full_file_system_is_one_sentence_and_the_next_run_resumes(hub, source, large):
    """As above, but a file system of 12 MiB raises ENOSPC, where a limit raises EFBIG."""
    cache = hub.folder / {"huggingface": "huggingface", "kaggle": "kagglehub"}[source]
    cache.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", cache]).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    try:
        sentence = refused(hub, model(source))
        assert sentence.startswith("model.handle: no space left in ") and "(No space left on device)" in sentence
        subprocess.run(["mount", "-o", "remount,size=64m", cache], check=True)
        hub.requests.clear()
        folder, _, _ = fetch(hub, model(source))
        (start,) = hub.resumed(LARGE_FILES[source])
        assert 0 < start <= 12 * MIB and next(folder.rglob(LARGE_FILES[source])).read_bytes() == large
    finally:
        subprocess.run(["umount", cache], check=True)


def credential_file(hub, source):
    """The file of the client's credentials, with credentials in it."""
    home = Path(hub.environment()["HOME"])
    if source == "huggingface":
        path, text = hub.folder / "huggingface" / "token", HF_TOKEN
    else:
        path, text = home / ".kaggle" / "kaggle.json", json.dumps({"username": "someone", "key": KAGGLE_KEY})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_the_clients_credential_files_are_used_and_their_contents_appear_nowhere(hub, source):
    assert "accept its licence at" in refused(hub, model(source), credentials=False)
    assert not any(request.authorised for request in hub.requests)
    path = credential_file(hub, source)
    fetch(hub, model(source), credentials=False)
    host = {"huggingface": "huggingface.co", "kaggle": "api.kaggle.com"}[source]
    assert {request.host for request in hub.requests if request.authorised} == {host}
    path.unlink()
    assert_no_secret_below(hub.folder)


BROKEN = "with-\n-a-break"  # KAGGLE_API_TOKEN goes into a header unchanged; http.client's error shows it
REMEDIES = {"huggingface": "and set HF_TOKEN to it", "kaggle": "and set KAGGLE_USERNAME and KAGGLE_KEY"}


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("kaggle", {"KAGGLE_API_TOKEN": BROKEN}),
        ("kaggle", {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "tokén→"}),
        ("huggingface", {"HF_TOKEN": "hf_tokén"}),
    ],
)
def test_credentials_that_cannot_be_sent_are_one_sentence_that_does_not_show_them(hub, source, known):
    status, text = hub.run([sys.executable, "-c", FETCH, json.dumps(model(source))], **known)
    assert status == 1 and "Traceback" not in text, text
    assert (
        "with-" not in text
        and "tokén" not in text
        and "has a character that none has" in text
        and REMEDIES[source] in text
    )


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_credential_file_that_cannot_be_read_is_named(hub, source):
    path = credential_file(hub, source)
    path.unlink()
    path.mkdir()  # root may read any file, but not a folder as a file
    sentence = refused(hub, model(source), credentials=False)
    assert (
        f"{path}, where" in sentence and "cannot be read (Is a directory)" in sentence and REMEDIES[source] in sentence
    )


@pytest.mark.parametrize(
    ("source", "environment", "says"),
    [
        ("huggingface", {"HTTPS_PROXY": "nonsense://x"}, "does not understand HTTPS_PROXY"),
        ("kaggle", {"HTTPS_PROXY": "nonsense://x"}, "does not understand HTTPS_PROXY"),
        ("huggingface", {"SSL_CERT_FILE": "/dev/null/no"}, "SSL_CERT_FILE or REQUESTS_CA_BUNDLE does not name a file"),
        ("huggingface", {"SSL_CERT_FILE": "/dev"}, "SSL_CERT_FILE or REQUESTS_CA_BUNDLE does not name a file"),
        ("kaggle", {"REQUESTS_CA_BUNDLE": "/dev/null/no"}, "SSL_CERT_FILE or REQUESTS_CA_BUNDLE does not name a file"),
    ],
)
def test_an_environment_in_which_no_request_works_is_named(hub, source, environment, says):
    assert says in refused(hub, model(source), **environment)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "part"), [("huggingface", "/api/models/"), ("kaggle", "GetModelInstance")])
def test_a_failing_hub_is_asked_again_a_few_times(hub, source, part):
    hub.statuses[part] = [503, 503]
    fetch(hub, model(source))
    clear_cache(hub, source)
    hub.statuses[part] = [503] * 99
    hub.requests.clear()
    assert "in 4 attempts (status 503): check the connection" in refused(hub, model(source))
    assert len([request for request in hub.requests if part in request.path]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_model_that_is_not_cached_needs_a_network(hub, source):
    assert "HF_HUB_OFFLINE is set: unset it, and fetch the model once" in refused(
        hub, model(source), HF_HUB_OFFLINE="1"
    )
    assert not hub.requests
    hub.close()
    assert "in 4 attempts (no connection): check the connection" in refused(hub, model(source))


@pytest.mark.slow
def test_a_notebooks_mounted_folder_is_used(hub, notebook):
    published = hub.kaggle["model/google/gemma-2/flax/gemma2-2b-it"].files
    environment = notebook(published)
    folder, origin, _ = fetch(hub, model("kaggle", revision=KAGGLE_VERSION), **environment)
    assert folder == Path(environment["COLAB_CACHE_MOUNT_FOLDER"], "data") and origin["files"].keys() == set(published)
    assert origin["version"] == KAGGLE_VERSION and origin["warning"] is None
    _, origin, _ = fetch(hub, model("kaggle"), **environment)
    assert origin["version"] is None
    assert origin["warning"].endswith(
        "Kaggle does not say which version this is; write its number there, from the model's page"
    )
    assert not hub.requests
