"""Hubs on the loopback for the tests of downloads, with Gemma 2 on two of them; GSM8K's published rows."""

import http.server
import json
import os
import threading

import pytest

from gsm8k_grpo.data import gsm8k
from gsm8k_hubs import download, read_splits
from loopback_hubs import Hubs, Repository

SHARD = os.urandom(64 * 1024)
LARGE = b"".join(bytes([index]) * 4096 for index in range(256)) * 24  # 24 MiB: huggingface_hub writes blocks of 10
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def hub(tmp_path):
    """All hubs, with Gemma 2 on two of them: gated, and its licence accepted."""
    made = Hubs(tmp_path)
    made.huggingface["model/google/gemma-2-2b-it"] = Repository(
        {
            "config.json": json.dumps({"model_type": "gemma2"}).encode(),
            "tokenizer.model": b"pieces",
            **dict(zip(SHARDS, (SHARD, LARGE), strict=True)),
            "model.safetensors.index.json": json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode(),
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
    assert not any(request.authorised for request in storage)  # only the hubs themselves may see a token


@pytest.fixture
def notebook(hub):
    """Colab's service beside its notebooks. It mounts data in folders that are not named by a version."""
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


@pytest.fixture(scope="module")
def raw(published):
    """The published rows by split."""
    return {
        split: [json.loads(line) for line in (published / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in gsm8k.PUBLISHED
    }


@pytest.fixture(scope="module")
def normalised(published, tmp_path_factory):
    """The rows that the stage `download` makes of the published files, as bytes by split."""
    made = Hubs(tmp_path_factory.mktemp("jsonl"))
    status, text = download(made, made.folder / "data", source="jsonl", path=str(published))
    made.close()
    assert status == 0 and not made.requests, text
    return read_splits(made.folder / "data")
