"""Models and GSM8K from the hubs, by the real clients in processes of their own, against hubs on the loopback."""

import csv
import http.server
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import gsm8k, hubs, model_files
from loopback_hubs import COMMIT, GITHUB, HF_TOKEN, KAGGLE_KEY, KAGGLE_VERSION, SECRETS, Hubs, Repository

ROOT = Path(__file__).parents[2]
TFDS_PYTHON = Path(os.environ.get("TFDS_PYTHON", ROOT / ".venv-tfds" / "bin" / "python"))
FETCH = """
import json, sys
import huggingface_hub  # as Tunix does, before anything could be set for it
from gsm8k_grpo import errors, hubs, retries

retries.FIRST_PAUSE_SECONDS = 0.01

def stage():
    folder, origin = hubs.fetch_model(json.loads(sys.argv[1]))
    print(json.dumps([str(folder), origin]))

errors.run_stage(stage)
"""
SHARD = os.urandom(64 * 1024)
MIB = 2**20
LARGE = b"".join(bytes([index]) * 4096 for index in range(256)) * 24  # 24 MiB: huggingface_hub writes blocks of 10
CREDENTIALS = {
    "huggingface": {"HF_TOKEN": HF_TOKEN},
    "kaggle": {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": KAGGLE_KEY},
}
HANDLES = {"huggingface": "google/gemma-2-2b-it", "kaggle": "google/gemma-2/flax/gemma2-2b-it"}
LARGE_FILES = {"huggingface": "model-00002-of-00002.safetensors", "kaggle": "manifest.ocdbt"}
CACHES = {"huggingface": "HF_HOME", "kaggle": "KAGGLEHUB_CACHE"}


@pytest.fixture
def hub(tmp_path):
    """All hubs, with Gemma 2 (gated, and accepted) on two of them."""
    made = Hubs(tmp_path)
    names = ("model-00001-of-00002.safetensors", LARGE_FILES["huggingface"])
    made.huggingface["model/google/gemma-2-2b-it"] = Repository(
        {
            "config.json": json.dumps({"model_type": "gemma2"}).encode(),
            "tokenizer.model": b"pieces",
            names[0]: SHARD,
            names[1]: LARGE,
            "model.safetensors.index.json": json.dumps({"weight_map": dict(zip("ab", names, strict=True))}).encode(),
            "pytorch_model.bin": b"not wanted",
            "gemma.gguf": b"not wanted",
            "original/consolidated.pth": b"not wanted",
        },
        gated=True,
    )
    made.kaggle["model/google/gemma-2/flax/gemma2-2b-it"] = Repository(
        {"tokenizer.model": b"pieces", "gemma2-2b-it/_METADATA": b"{}", "gemma2-2b-it/manifest.ocdbt": LARGE},
        gated=True,
    )
    yield made
    made.close()
    storage = [request for request in made.requests if request.host not in ("huggingface.co", "api.kaggle.com")]
    assert not any(request.authorised for request in storage)  # only the hubs themselves get to see a token


def model(source, **changes):
    return {"source": source, "handle": HANDLES.get(source), "revision": None, "path": None, **changes}


def run(hub, command, limit_bytes=None, cwd=None, **environment):
    """(exit status, everything printed) of a process that knows only these hubs."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    done = subprocess.run(
        command,
        env=hub.environment(PYTHONPATH=str(ROOT / "scripts"), **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        timeout=300,
        preexec_fn=limited if limit_bytes else None,
    )
    assert not any(secret in done.stdout for secret in SECRETS), done.stdout
    return done.returncode, done.stdout


def fetch(hub, settings, credentials=True, **options):
    """((folder, origin) of a model, what was printed)."""
    known = CREDENTIALS.get(settings["source"], {}) if credentials else {}
    status, text = run(hub, [sys.executable, "-c", FETCH, json.dumps(settings)], **known, **options)
    assert status == 0, text
    folder, origin = json.loads(text.splitlines()[-1])
    return Path(folder), origin, text


def refused(hub, settings, credentials=True, **options):
    """The one sentence that a fetch ends with."""
    known = CREDENTIALS.get(settings["source"], {}) if credentials else {}
    status, text = run(hub, [sys.executable, "-c", FETCH, json.dumps(settings)], **known, **options)
    assert status == 1 and "Traceback" not in text, text
    (error,) = [line for line in text.splitlines() if line.startswith("ERROR: ")]
    return error.removeprefix("ERROR: ")


def resumed(hub, name):
    """Where the requests for the rest of a file started."""
    return [request.start for request in hub.requests if request.path.endswith(name) and request.status == 206]


def assert_no_secret_below(folder):
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert not any(secret.encode() in path.read_bytes() for secret in SECRETS), path


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
    hub.close()  # the newest that is here stands in for the newest that there is
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
            "model.handle: Kaggle gives google/gemma-2/flax/gemma2-2b-it to no one unknown: accept its licence at "
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
def test_no_credentials_and_a_licence_not_accepted(hub, source, credentials, accepted, sentence):
    getattr(hub, source)[f"model/{HANDLES[source]}"].accepted = accepted
    assert refused(hub, model(source), credentials) == sentence


def test_what_is_not_there_is_named(hub):
    missing = "google/gemma-9"
    assert refused(hub, model("huggingface", handle=missing)).startswith(
        "model.handle: there is no model google/gemma-9 at https://huggingface.co/google/gemma-9, or not for you: "
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
def test_a_connection_cut_half_way_is_resumed_where_it_stopped(hub, source):
    name = LARGE_FILES[source]
    # kagglehub asks for the whole file first, reads none of it, and then asks for what is missing.
    hub.cuts[name] = [13 * MIB, *([None] if source == "kaggle" else []), 21 * MIB // 2]
    folder, _, _ = fetch(hub, model(source))
    (path,) = folder.rglob(name)
    assert path.read_bytes() == LARGE
    # Clients write whole blocks, of 10 MiB and of 1: what they had of one when the connection was cut comes again.
    starts = {"huggingface": [0, 10 * MIB, 20 * MIB], "kaggle": [0, 13 * MIB, 23 * MIB]}[source]
    assert [0, *resumed(hub, name)] == starts


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_another_run_goes_on_from_what_a_failed_one_had_got(hub, source):
    name = LARGE_FILES[source]
    hub.cuts[name] = [13 * MIB] + [0] * 40
    sentence = refused(hub, model(source))
    assert "in 4 attempts (the connection was cut)" in sentence and "goes on from what has been" in sentence
    hub.cuts.clear()
    hub.requests.clear()
    fetch(hub, model(source))
    assert resumed(hub, name) == [{"huggingface": 10 * MIB, "kaggle": 13 * MIB}[source]]


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_wrong_checksum_is_fetched_again_and_after_some_attempts_refused(hub, source):
    name = LARGE_FILES[source]
    hub.damaged[name] = 1
    folder, _, text = fetch(hub, model(source))
    assert (next(folder.rglob(name))).read_bytes() == LARGE
    assert "attempt 1 of 4 failed (a wrong checksum); trying again" in text
    shutil.rmtree(hub.folder / {"huggingface": "huggingface", "kaggle": "kagglehub"}[source])
    hub.damaged[name] = 99
    assert "arrived damaged 4 times (its checksum is not" in refused(hub, model(source))
    hub.damaged.clear()
    assert (next(fetch(hub, model(source))[0].rglob(name))).read_bytes() == LARGE


def test_a_file_damaged_in_the_cache_is_found_and_fetched_again(hub):
    folder, origin, _ = fetch(hub, model("huggingface"))
    blob = (folder / LARGE_FILES["huggingface"]).resolve()
    blob.write_bytes(LARGE[:-1] + b"?")
    assert fetch(hub, model("huggingface"))[1] == origin


def test_a_cache_that_another_program_filled_in_part_is_completed_or_refused(hub):
    """As `AutoModel.from_pretrained` leaves it: without what tokenizer and generation need, or a list."""
    repository = hub.huggingface["model/google/gemma-2-2b-it"]
    repository.files.update({"tokenizer_config.json": b"{}", "generation_config.json": b"{}"})
    folder, whole, _ = fetch(hub, model("huggingface"))

    def partial():
        shutil.rmtree(folder.parents[1] / "trees")
        (folder / "tokenizer_config.json").unlink()

    partial()
    sentence = refused(hub, model("huggingface"), HF_HUB_OFFLINE="1")
    assert "google/gemma-2-2b-it is not whole in" in sentence and "tokenizer_config.json is missing, and" in sentence
    assert fetch(hub, model("huggingface"))[:2] == (folder, whole)  # with a network, it is fetched
    assert fetch(hub, model("huggingface"), HF_HUB_OFFLINE="1")[:2] == (folder, whole)
    partial()
    hub.close()
    assert "google/gemma-2-2b-it is not whole in" in refused(hub, model("huggingface"))


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(hub, source):
    sentence = refused(hub, model(source), limit_bytes=12 * MIB)
    assert sentence.startswith("model.handle: no space left in ") and f"set {CACHES[source]} to a folder" in sentence
    hub.requests.clear()
    fetch(hub, model(source))
    (start,) = resumed(hub, LARGE_FILES[source])
    assert 0 < start <= 12 * MIB


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_disk_that_is_full_indeed_says_so_and_the_next_run_goes_on(hub, source):
    """As above, but ENOSPC by a file system of 12 MiB instead of EFBIG by a limit."""
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
        (start,) = resumed(hub, LARGE_FILES[source])
        assert 0 < start <= 12 * MIB and next(folder.rglob(LARGE_FILES[source])).read_bytes() == LARGE
    finally:
        subprocess.run(["umount", cache], check=True)


def credential_file(hub, source):
    """Where the client keeps its user's credentials, with them in it."""
    home = Path(hub.environment()["HOME"])
    if source == "huggingface":
        path, text = hub.folder / "huggingface" / "token", HF_TOKEN
    else:
        path, text = home / ".kaggle" / "kaggle.json", json.dumps({"username": "someone", "key": KAGGLE_KEY})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_the_clients_own_credential_files_are_used_and_appear_nowhere(hub, source):
    assert "accept its licence at" in refused(hub, model(source), credentials=False)
    assert not any(request.authorised for request in hub.requests)
    path = credential_file(hub, source)
    fetch(hub, model(source), credentials=False)
    host = {"huggingface": "huggingface.co", "kaggle": "api.kaggle.com"}[source]
    assert {request.host for request in hub.requests if request.authorised} == {host}
    path.unlink()
    assert_no_secret_below(hub.folder)


BROKEN = "with-\n-a-break"  # KAGGLE_API_TOKEN goes into a header as it is; http.client's error shows it
HOW = {"huggingface": "and set HF_TOKEN to it", "kaggle": "and set KAGGLE_USERNAME and KAGGLE_KEY"}


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("kaggle", {"KAGGLE_API_TOKEN": BROKEN}),
        ("kaggle", {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "tokén→"}),
        ("huggingface", {"HF_TOKEN": "hf_tokén"}),
    ],
)
def test_credentials_that_cannot_be_sent_are_one_sentence_that_does_not_show_them(hub, source, known):
    status, text = run(hub, [sys.executable, "-c", FETCH, json.dumps(model(source))], **known)
    assert status == 1 and "Traceback" not in text, text
    assert "with-" not in text and "tokén" not in text and "holds what none has" in text and HOW[source] in text


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_a_credential_file_that_cannot_be_read_is_named(hub, source):
    path = credential_file(hub, source)
    path.unlink()
    path.mkdir()  # root may read all files, but no folder as one
    sentence = refused(hub, model(source), credentials=False)
    assert f"{path}, which" in sentence and "cannot be read (Is a directory)" in sentence and HOW[source] in sentence


@pytest.mark.parametrize(
    ("source", "surroundings", "says"),
    [
        ("huggingface", {"HTTPS_PROXY": "nonsense://x"}, "cannot make sense of HTTPS_PROXY"),
        ("kaggle", {"HTTPS_PROXY": "nonsense://x"}, "cannot make sense of HTTPS_PROXY"),
        ("huggingface", {"SSL_CERT_FILE": "/nowhere"}, "SSL_CERT_FILE or REQUESTS_CA_BUNDLE names no file"),
        ("kaggle", {"REQUESTS_CA_BUNDLE": "/nowhere"}, "SSL_CERT_FILE or REQUESTS_CA_BUNDLE names no file"),
    ],
)
def test_surroundings_that_no_request_can_be_made_in_are_named(hub, source, surroundings, says):
    assert says in refused(hub, model(source), **surroundings)


@pytest.mark.parametrize(("source", "part"), [("huggingface", "/api/models/"), ("kaggle", "GetModelInstance")])
def test_a_hub_in_trouble_is_asked_again_a_few_times(hub, source, part):
    hub.statuses[part] = [503, 503]
    fetch(hub, model(source))
    shutil.rmtree(hub.folder / {"huggingface": "huggingface", "kaggle": "kagglehub"}[source])
    hub.statuses[part] = [503] * 99
    hub.requests.clear()
    assert "in 4 attempts (status 503): check the connection" in refused(hub, model(source))
    assert len([request for request in hub.requests if part in request.path]) == 4


@pytest.mark.parametrize("source", ["huggingface", "kaggle"])
def test_without_a_network_what_was_never_fetched_is_named(hub, source):
    assert "HF_HUB_OFFLINE is set: unset it, and fetch the model once" in refused(
        hub, model(source), HF_HUB_OFFLINE="1"
    )
    assert not hub.requests
    hub.close()
    assert "in 4 attempts (no connection): check the connection" in refused(hub, model(source))


@pytest.fixture
def notebook(hub):
    """Colab's service beside its notebooks, which mounts data below a folder; what it mounts has no version's name."""
    mounted = hub.folder / "mounted"

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            content = b'{"slug": "data"}' if self.path.endswith("/mount") else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    def mount(files):
        for name, content in files.items():
            path = mounted / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return {"TBE_RUNTIME_ADDR": f"127.0.0.1:{service.server_port}", "COLAB_CACHE_MOUNT_FOLDER": str(mounted)}

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield mount
    service.shutdown()
    service.server_close()


def test_in_a_notebook_that_mounts_kaggles_data_it_is_used_from_there(hub, notebook):
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


def test_a_local_folder_is_used_as_it_is_and_checked(hub, tmp_path):
    folder = tmp_path / "gemma"
    files = hub.huggingface["model/google/gemma-2-2b-it"].files
    for name in ("config.json", "tokenizer.model", "model.safetensors.index.json", LARGE_FILES["huggingface"]):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(files[name])
    local = model("local", path=str(folder))
    assert refused(hub, local).startswith(f"{folder}: model-00001-of-00002.safetensors is missing (1 of 2 ")
    (folder / "model-00001-of-00002.safetensors").write_bytes(SHARD)
    found, origin, _ = fetch(hub, local)
    assert found == folder and origin == {
        "source": "local",
        "path": str(folder),
        "files": model_files.hashes(folder),
        "warning": None,
    }
    # What did not change since is not read again.
    known, since = {name: {**facts, "sha256": "known"} for name, facts in origin["files"].items()}, time.time() + 60
    assert model_files.local_hashes(folder, known, since) == known
    assert model_files.local_hashes(folder, known, since - 3600) == origin["files"]
    (folder / "notes.bin").write_bytes(b"not the model's")
    assert "notes.bin" not in model_files.local_hashes(folder)
    index = (folder / "model.safetensors.index.json").read_bytes()
    for damage in ("{}", '{"weight_map": ["a"]}', '{"weight_map": null}', '{"weight_map": {"a": 1}}'):
        (folder / "model.safetensors.index.json").write_text(damage)
        with pytest.raises(PipelineError, match="is missing, empty or no such table; fetch the model again"):
            hubs.fetch_model(local)
    (folder / "model.safetensors.index.json").write_text("[]")
    assert "index.json: expected a JSON object, found list" in refused(hub, local)
    (folder / "model.safetensors.index.json").write_bytes(index)
    (folder / "tokenizer.model").unlink()
    assert refused(hub, local).endswith("no tokenizer.json or tokenizer.model; copy the model's own there")
    (folder / "config.json").write_text('{"model_type": "lfm2"}')
    assert "LFM2 is not supported: Tunix has no such model" in refused(hub, local)
    (folder / "config.json").unlink()
    assert "expected config.json, a tokenizer and safetensors" in refused(hub, local)
    assert model_files.local_hashes(folder) == {}  # whatever it is: nothing of it is read
    assert "is not a folder" in refused(hub, model("local", path=str(folder / "none")))
    assert not hub.requests


# GSM8K


@pytest.fixture(scope="module")
def raw(published):
    """The published rows by split."""
    return {
        split: [json.loads(line) for line in (published / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in gsm8k.PUBLISHED
    }


def with_gsm8k(hub, raw):
    """Puts GSM8K on all hubs, in the form that each has it in."""
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
        hub.github[f"{split}_socratic.jsonl"] = (
            hub.github[f"{split}.jsonl"][:0] + gsm8k.published_text(rows[:3]).encode()
        )
    hub.huggingface["dataset/openai/gsm8k"] = Repository(packed)
    hub.kaggle["dataset/thedevastator/grade-school-math-8k-q-a"] = Repository(tables)


def download(hub, output, *more, **dataset):
    """(exit status, output) of the stage; everything in JSON text as the rule passes it."""
    settings = {
        "name": "gsm8k",
        "handle": None,
        "path": None,
        "train_rows": None,
        "test_rows": None,
        "seed": 0,
        **dataset,
    }
    command = [sys.executable, str(ROOT / "scripts" / "download.py"), "--settings", json.dumps({"dataset": settings})]
    return run(hub, [*command, "--output", str(output), *more])


@pytest.fixture(scope="module")
def normalised(published, tmp_path_factory):
    """What the published files make."""
    made = Hubs(tmp_path_factory.mktemp("jsonl"))
    status, text = download(made, made.folder / "data", source="jsonl", path=str(published))
    made.close()
    assert status == 0 and not made.requests, text
    return {split: (made.folder / "data" / f"{split}.jsonl").read_bytes() for split in gsm8k.PUBLISHED}


def test_gsm8k_is_the_same_bytes_from_each_hub(hub, raw, normalised, tmp_path):
    with_gsm8k(hub, raw)
    for network in (True, False):
        if not network:
            hub.close()
        for source, found in (("huggingface", {"commit": COMMIT}), ("kaggle", {"version": KAGGLE_VERSION})):
            output = tmp_path / source
            status, text = download(hub, output, source=source)
            assert status == 0, text
            assert {split: (output / f"{split}.jsonl").read_bytes() for split in normalised} == normalised
            origin = json.loads((output / "dataset.json").read_text())["origin"]
            assert origin == {
                "source": source,
                "handle": {"huggingface": "openai/gsm8k", "kaggle": "thedevastator/grade-school-math-8k-q-a"}[source],
                **found,
                "sha256": {f"{split}.jsonl": sha256 for split, (_, sha256) in gsm8k.PUBLISHED.items()},
            }
    assert not [request for request in hub.requests if "socratic" in request.path]


def test_the_workflow_gets_gsm8k_from_each_source_and_no_token_is_left_anywhere(hub, raw, normalised, tmp_path):
    with_gsm8k(hub, raw)
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
        status, text = run(hub, command, cwd=project, **known)
        assert status == 0, text
        data = project / "results" / "data" / source
        assert {split: (data / f"{split}.jsonl").read_bytes() for split in normalised} == normalised
    assert sum(request.authorised for request in hub.requests) > 4
    assert_no_secret_below(hub.folder)  # caches, home, results, logs and Snakemake's own records


def test_other_rows_than_the_published_ones_are_refused_and_spoil_nothing(hub, raw, tmp_path):
    swapped = {**raw, "test": [raw["test"][1], raw["test"][0], *raw["test"][2:]]}
    with_gsm8k(hub, swapped)
    output = tmp_path / "data"
    status, text = download(hub, output, source="huggingface")
    assert status == 1 and "ERROR: GSM8K from huggingface (openai/gsm8k): these are not GSM8K's test rows" in text
    with_gsm8k(hub, {**raw, "train": raw["train"][:-1]})
    status, text = download(hub, output, source="kaggle")
    assert status == 1 and "7,472 rows, GSM8K's train has 7,473; take another source" in text
    assert not output.exists()


def test_rows_that_are_no_utf8_are_refused_in_one_sentence(hub, raw, tmp_path):
    with_gsm8k(hub, raw)
    repository = hub.kaggle["dataset/thedevastator/grade-school-math-8k-q-a"]
    repository.files["main_train.csv"] += b"\xff"
    status, text = download(hub, tmp_path / "data", source="kaggle")
    assert status == 1 and "Traceback" not in text
    assert "main_train.csv: cannot be read as rows of GSM8K (UnicodeDecodeError)" in text


def test_in_a_notebook_that_mounts_kaggles_data_gsm8k_is_read_from_there(hub, notebook, raw, normalised, tmp_path):
    with_gsm8k(hub, raw)
    environment = notebook(hub.kaggle["dataset/thedevastator/grade-school-math-8k-q-a"].files)
    command = {"name": "gsm8k", "source": "kaggle", "handle": None, "path": None, "train_rows": None}
    script = [sys.executable, str(ROOT / "scripts" / "download.py"), "--output", str(tmp_path / "data"), "--settings"]
    chosen = json.dumps({"dataset": {**command, "test_rows": None, "seed": 0}})
    status, text = run(hub, [*script, chosen], **environment)
    assert status == 0, text
    assert {split: (tmp_path / "data" / f"{split}.jsonl").read_bytes() for split in normalised} == normalised
    assert not hub.requests


def test_gsm8k_from_kaggle_is_resumed_and_its_failures_name_the_data_set(hub, raw, tmp_path):
    assert (
        "ERROR: dataset.handle: Kaggle has no someone/else: check"
        in download(hub, tmp_path / "data", source="kaggle", handle="someone/else")[1]
    )
    with_gsm8k(hub, raw)
    hub.cuts["archive"] = [3 * MIB // 2]
    status, text = download(hub, tmp_path / "data", source="kaggle")
    assert status == 0, text
    assert resumed(hub, "archive") == [MIB]


@pytest.fixture
def tfds(hub, raw, tmp_path):
    """Runs scripts/tfds_rows.py in its own environment."""
    if not TFDS_PYTHON.exists():
        pytest.skip("needs TensorFlow's environment: make setup-tfds")
    with_gsm8k(hub, raw)

    def rows(**options):
        return run(
            hub,
            [str(TFDS_PYTHON), str(ROOT / "scripts" / "tfds_rows.py"), "--output", str(tmp_path / "rows")],
            **options,
        )

    return rows


def test_gsm8k_from_tensorflow_datasets_is_the_same_bytes(hub, tfds, published, normalised, tmp_path):
    hub.cuts["train.jsonl"] = [2 * MIB, MIB]
    hub.damaged["test.jsonl"] = 1
    for _ in range(2):  # the second time without a network
        status, text = tfds()
        assert status == 0, text
        for split in gsm8k.PUBLISHED:
            assert (tmp_path / "rows" / f"{split}.jsonl").read_bytes() == (published / f"{split}.jsonl").read_bytes()
        hub.close()
    assert resumed(hub, f"{GITHUB}train.jsonl") == [2 * MIB, 3 * MIB]
    status, text = download(hub, tmp_path / "data", "--tfds-rows", str(tmp_path / "rows"), source="tfds")
    assert status == 0, text
    assert {split: (tmp_path / "data" / f"{split}.jsonl").read_bytes() for split in normalised} == normalised
    origin = json.loads((tmp_path / "data" / "dataset.json").read_text())["origin"]
    assert origin["source"] == "tfds" and origin["versions"].keys() == {
        "gsm8k",
        "tensorflow-cpu",
        "tensorflow-datasets",
    }


def test_failures_of_tensorflow_datasets_are_one_sentence_and_the_next_run_goes_on(hub, tfds):
    hub.statuses["train.jsonl"] = [404]
    status, text = tfds()
    assert status == 1 and "has for GSM8K answers with status 404: set dataset.source to huggingface" in text
    status, text = tfds(limit_bytes=MIB)
    assert status == 1 and "ERROR: dataset.source: no space left in " in text and "TFDS_DATA_DIR" in text
    hub.requests.clear()
    hub.cuts["train.jsonl"] = [MIB] + [0] * 9
    status, text = tfds()
    assert status == 1 and "in 4 attempts (the connection was cut): check the connection" in text
    assert resumed(hub, f"{GITHUB}train.jsonl")[:2] == [MIB, 2 * MIB]
    hub.cuts.clear()
    hub.requests.clear()
    assert tfds()[0] == 0
    assert resumed(hub, f"{GITHUB}train.jsonl") == [2 * MIB]


def test_without_tensorflow_the_stage_says_what_to_run(hub, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "tfds_rows.py"), "--output", str(tmp_path / "rows")]
    status, text = run(hub, command)
    assert status == 1 and "run `make setup-tfds`, or Snakemake with --sdm conda" in text and "Traceback" not in text


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])  # Qwen2.5: test_fetched.py
def test_a_sharded_model_comes_from_hugging_face_and_loads(hub, tmp_path, family):
    import numpy as np
    from flax import traverse_util
    from test_pretrained import SIZES, write_folder

    from gsm8k_grpo.huggingface import weight_reading
    from gsm8k_grpo.models import storage
    from gsm8k_grpo.models.base_model import load_base_model
    from gsm8k_grpo.models.mesh import make_mesh

    rng = np.random.default_rng(1)
    shapes = weight_reading.expected_shapes(SIZES[family])
    weights = traverse_util.unflatten_dict({path: rng.standard_normal(shape, "f") for path, shape in shapes.items()})
    folder = write_folder(tmp_path / "published", family, weights, shards=3)
    hub.huggingface["model/someone/small"] = Repository({path.name: path.read_bytes() for path in folder.iterdir()})
    chosen = model("huggingface", handle="someone/small", revision=COMMIT)
    chosen |= {"name": "small", "architecture": SIZES[family], "dtype": "float32", "pretraining": None}
    command = [sys.executable, str(ROOT / "scripts" / "base_model.py"), "--settings", json.dumps({"model": chosen})]
    status, text = run(hub, [*command, "--output", str(tmp_path / "model")], cwd=tmp_path, JAX_PLATFORMS="cpu")
    assert status == 0, text
    manifest = json.loads((tmp_path / "model" / "model.json").read_text())
    assert manifest["origin"]["commit"] == COMMIT and manifest["origin"]["warning"] is None
    assert manifest["sha256"]["weights"] == storage.weights_hash(weights)
    assert load_base_model(tmp_path / "model", make_mesh(1, 1)).sha256 == manifest["sha256"]
