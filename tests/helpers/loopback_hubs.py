"""The hubs that tests talk to: one server on the loopback that stands for api.kaggle.com, huggingface.co, their storage
hosts and raw.githubusercontent.com. The real clients reach it as their HTTPS proxy, with its certificate authority.

It speaks as much of those protocols as the clients use for downloads, for uploads of models to both, and for uploads of
data sets to Kaggle. It can be told to fail, and records every request.
"""

import base64
import hashlib
import http.server
import io
import json
import os
import resource
import ssl
import subprocess
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

ROOT = Path(__file__).parents[2]
HF_TOKEN, KAGGLE_KEY = "hf_loopbackTokenNobodyMaySee", "loopback-key-nobody-may-see"
SIGNATURE = "loopbackSignatureNobodyMaySee"
SECRETS = (HF_TOKEN, KAGGLE_KEY, SIGNATURE)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
KAGGLE_VERSION = 3
CREDENTIALS = {
    "huggingface": {"HF_TOKEN": HF_TOKEN},
    "kaggle": {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": KAGGLE_KEY},
}
GITHUB = "/openai/grade-school-math/master/grade_school_math/data/"


@dataclass
class Repository:
    """One hub's files under one handle."""

    files: dict[str, bytes]
    gated: bool = False  # needs a token of an account that has accepted the licence
    accepted: bool = True
    private: bool = False
    commits: int = 0  # that were made here
    licence: str | None = None  # as an upload names it


@dataclass
class Request:
    """One request, and its answer."""

    method: str
    host: str
    path: str
    start: int  # of the requested range
    authorised: bool
    status: int = 0


@dataclass
class Hubs:
    """All hubs: fill `huggingface`, `kaggle` (by KIND/HANDLE) and `github`; set faults by file name."""

    folder: Path
    huggingface: dict[str, Repository] = field(default_factory=dict)
    kaggle: dict[str, Repository] = field(default_factory=dict)
    github: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int | None]] = field(default_factory=dict)  # the next answers end after so many bytes
    damaged: dict[str, int] = field(default_factory=dict)  # so many next answers have a wrong byte
    statuses: dict[str, list[int]] = field(default_factory=dict)  # by a part of the path: the next answers
    requests: list[Request] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)  # uploaded large files, by their SHA-256
    uploaded: dict[str, bytes] = field(default_factory=dict)  # to Kaggle's storage, by NUMBER:FILE NAME
    kaggle_models: set[str] = field(default_factory=set)  # made by an upload, OWNER/NAME

    def __post_init__(self) -> None:
        authority = trustme.CA()
        self.certificate = self.folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.certificate))
        hosts = (
            "huggingface.co",
            "cdn-lfs.hf.co",
            "api.kaggle.com",
            "storage.googleapis.com",
            "raw.githubusercontent.com",
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*hosts).configure_cert(context)
        handler = type("BoundHandler", (Handler,), {"hubs": self, "context": context})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stops the server, as if there were no network."""
        self.server.shutdown()
        self.server.server_close()

    def run(self, command: list, limit_bytes: int | None = None, cwd: Path | None = None, **environment: str) -> tuple:
        """(exit status, all output) of a process that knows only these hubs.

        Args:
          command: as for `subprocess.run`.
          limit_bytes: the largest file that the process may write.
          cwd: its folder.
          environment: more variables for it.
        """

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

        done = subprocess.run(
            command,
            env=self.environment(PYTHONPATH=str(ROOT / "scripts"), **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            timeout=300,
            preexec_fn=limit if limit_bytes else None,
        )
        assert not any(secret in done.stdout for secret in SECRETS), done.stdout
        return done.returncode, done.stdout

    def resumed(self, name: str) -> list[int]:
        """Where the requests for the rest of a file started."""
        return [request.start for request in self.requests if request.path.endswith(name) and request.status == 206]

    def environment(self, **more: str) -> dict[str, str]:
        """For a process without another network, with empty caches below `folder` and no credentials.

        It shares the compiled programs of all tests.
        """
        kept = {
            name: value for name, value in os.environ.items() if name in ("PATH", "LANG") or name.startswith("JAX_")
        }
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return kept | {
            "HOME": str(home),
            "HF_HOME": str(self.folder / "huggingface"),
            "KAGGLEHUB_CACHE": str(self.folder / "kagglehub"),
            "TFDS_DATA_DIR": str(self.folder / "tfds"),
            "HTTPS_PROXY": f"http://127.0.0.1:{self.server.server_port}",
            "REQUESTS_CA_BUNDLE": str(self.certificate),
            "SSL_CERT_FILE": str(self.certificate),
            **more,
        }


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection: CONNECT, TLS, then requests to one of the hosts."""

    protocol_version = "HTTP/1.1"
    hubs: Hubs
    context: ssl.SSLContext
    host = ""

    def log_message(self, *arguments: object) -> None:
        """Prints nothing."""

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ssl.SSLError):
            self.close_connection = True  # the client went away

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        """Records the request and lets its host answer."""
        path = urllib.parse.unquote(self.path.partition("?")[0])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        authorised = any(secret in self.authorisation() for secret in SECRETS)
        self.request_note = Request(self.command, self.host, path, start, authorised)
        self.hubs.requests.append(self.request_note)
        body = self.body()
        for part, statuses in self.hubs.statuses.items():
            if part in path and statuses:
                return self.reply(statuses.pop(0))
        if self.host == "api.kaggle.com":
            return self.kaggle(path.rpartition("/")[2], json.loads(body))
        if self.command == "PUT":  # to storage
            self.hubs.stored[hashlib.sha256(body).hexdigest()] = body
            self.hubs.uploaded[path.rpartition("/")[2]] = body
            return self.reply(200)
        if self.host == "huggingface.co" and self.command == "POST":
            return self.huggingface_upload(path, body)
        if self.host == "huggingface.co":
            return self.huggingface(path)
        if self.host == "raw.githubusercontent.com":
            content = self.hubs.github.get(path.removeprefix(GITHUB))
            return self.reply(404) if content is None else self.send_content(path, content)
        # Storage: /HUB/KIND/OWNER/NAME//FILE, with a signature that the client must send back unchanged.
        if SIGNATURE not in self.path and start == 0:
            return self.reply(403)
        _, hub, rest = path.split("/", 2)
        handle, _, name = rest.partition("//")
        repository = getattr(self.hubs, hub)[handle]
        content = repository.files[name] if name != "archive" else archive(repository.files)
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        self.send_content(name, content, **{"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"})

    def body(self) -> bytes:
        """What the client sends, whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while length := int(self.rfile.readline(), 16):
            content += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def authorisation(self) -> str:
        """The client's credentials, decoded if Basic."""
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        return base64.b64decode(value).decode() if scheme == "Basic" else value

    def storage(self, host: str, hub: str, handle: str, name: str) -> str:
        return f"https://{host}/{hub}/{handle}//{name}?X-Signature={SIGNATURE}"

    def huggingface(self, path: str) -> None:
        kind, parts = "model", path.strip("/").split("/")
        if parts[0] == "api":
            kind, parts = parts[1].removesuffix("s"), parts[2:]
        elif parts[0] == "datasets":
            kind, parts = "dataset", parts[1:]
        handle = f"{kind}/{'/'.join(parts[:2])}"
        repository, verb, rest = self.hubs.huggingface.get(handle), parts[2] if len(parts) > 2 else "", parts[3:]
        if repository is None:
            code = "RepoNotFound"
            return self.reply(404 if self.request_note.authorised else 401, {"error": "?"}, **{"X-Error-Code": code})
        if verb in ("", "revision"):
            if rest and rest[0] not in ("main", "v1", COMMIT):
                return self.reply(404, {"error": "?"}, **{"X-Error-Code": "RevisionNotFound"})
            return self.reply(200, {"id": handle.partition("/")[2], "sha": commit_of(repository), "siblings": []})
        if verb == "tree":
            return self.reply(200, [entry(name, content) for name, content in repository.files.items()])
        name = "/".join(rest[1:])
        if repository.gated and not (self.request_note.authorised and repository.accepted):
            status = 403 if self.request_note.authorised else 401
            return self.reply(status, {"error": "gated"}, **{"X-Error-Code": "GatedRepo"})
        if name not in repository.files:
            return self.reply(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = repository.files[name]
        listed = entry(name, content)
        if "lfs" in listed:
            return self.reply(
                302,
                **{
                    "Location": self.storage("cdn-lfs.hf.co", "huggingface", handle, name),
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{listed["lfs"]["oid"]}"',
                    "X-Linked-Size": str(len(content)),
                    "X-Xet-Hash": listed["xetHash"],  # offers the other protocol, as the real hub does
                    "X-Xet-Refresh-Route": f"https://huggingface.co/api/{handle}/xet-read-token/{COMMIT}",
                },
            )
        self.send_content(name, content, **{"ETag": f'"{listed["oid"]}"', "X-Repo-Commit": COMMIT})

    def huggingface_upload(self, path: str, body: bytes) -> None:
        if path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if not self.request_note.authorised:
            return self.reply(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            handle = f"{asked['organization']}/{asked['name']}"
            answer = {"url": f"https://huggingface.co/{handle}"}
            if f"model/{handle}" in self.hubs.huggingface:
                return self.reply(409, {"error": "You already created this model repo", **answer})
            private = asked["visibility"] == "private"
            self.hubs.huggingface[f"model/{handle}"] = Repository({".gitattributes": b"*"}, private=private)
            return self.reply(200, answer)
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                if each["oid"] not in self.hubs.stored:
                    href = f"https://cdn-lfs.hf.co/{each['oid']}?X-Signature={SIGNATURE}"
                    each["actions"] = {"upload": {"href": href}}
            return self.reply(200, {"transfer": "basic", "objects": objects})
        _, _, owner, name, verb, _ = path.strip("/").split("/", 5)  # api/models/OWNER/NAME/VERB/REVISION
        repository = self.hubs.huggingface[f"model/{owner}/{name}"]
        if verb == "preupload":
            modes = {True: "lfs", False: "regular"}
            listed = [
                {"path": each["path"], "uploadMode": modes["lfs" in entry(each["path"], b"")], "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": listed})
        head, *changes = [json.loads(line) for line in body.splitlines()]
        if head["value"].get("parentCommit") != commit_of(repository):
            return self.reply(412, {"error": "The expected parent commit is another one"})
        for change in changes:
            value = change["value"]
            if change["key"] == "deletedFile":
                del repository.files[value["path"]]
            elif change["key"] == "lfsFile":
                repository.files[value["path"]] = self.hubs.stored[value["oid"]]
            else:
                repository.files[value["path"]] = base64.b64decode(value["content"])
        repository.commits += 1
        oid = commit_of(repository)
        self.reply(200, {"commitOid": oid, "commitUrl": f"https://huggingface.co/{owner}/{name}/commit/{oid}"})

    def kaggle_upload(self, method: str, body: dict) -> None:
        if not self.request_note.authorised:
            return self.reply(401, {"code": 401, "message": "Unauthenticated"})
        if method == "StartBlobUpload":
            token = f"{len(self.hubs.requests)}:{body['name']}"
            url = self.storage("storage.googleapis.com", "kaggle", "upload", f"/{token}")
            return self.reply(200, {"token": token, "createUrl": url})
        if method == "CreateModel":
            self.hubs.kaggle_models.add(f"{body['ownerSlug']}/{body['slug']}")
            return self.reply(200, {"id": 1})
        if method == "CreateDataset":
            handle, content = f"dataset/{body['ownerSlug']}/{body['slug']}", body
            if handle in self.hubs.kaggle:
                return self.reply(200, {"error": "The requested title is already in use"})
        elif method == "CreateDatasetVersion":
            handle, content = f"dataset/{body['ownerSlug']}/{body['datasetSlug']}", body["body"]
        elif method == "CreateModelInstance":
            content = body["body"]
            handle = self.kaggle_handle(body | content)
            if handle in self.hubs.kaggle:
                return self.reply(200, {"error": "The variation exists", "errorCode": 409})
        else:
            handle, content = self.kaggle_handle(body), body["body"]
        made = Repository(dict(self.uploaded_files(content)), private=True, licence=content.get("licenseName"))
        made.commits = 1 + (self.hubs.kaggle[handle].commits or KAGGLE_VERSION if handle in self.hubs.kaggle else 0)
        self.hubs.kaggle[handle] = made
        self.reply(200, {"status": "ok"})

    def uploaded_files(self, content: dict, folder: str = "") -> Iterator[tuple[str, bytes]]:
        """The files of an upload, and of the folders in it, by path."""
        for each in content.get("files", ()):
            yield folder + each["token"].partition(":")[2], self.hubs.uploaded[each["token"]]
        for below in content.get("directories", ()):
            yield from self.uploaded_files(below, f"{folder}{below['name']}/")

    def kaggle_handle(self, body: dict) -> str:
        """The model's variation that a request is about."""
        framework = body["framework"].removeprefix("MODEL_FRAMEWORK_").lower()
        return f"model/{body['ownerSlug']}/{body['modelSlug']}/{framework}/{body['instanceSlug']}"

    def kaggle(self, method: str, body: dict) -> None:
        if method.startswith(("Create", "StartBlob")):
            return self.kaggle_upload(method, body)
        if method == "GetModel":
            there = f"{body['ownerSlug']}/{body['modelSlug']}" in self.hubs.kaggle_models
            return self.reply(200, {"id": 1}) if there else self.reply(404, {"code": 404, "message": "Not found"})
        if "modelSlug" in body:
            handle = self.kaggle_handle(body)
        else:
            handle = f"dataset/{body['ownerSlug']}/{body['datasetSlug']}"
        repository = self.hubs.kaggle.get(handle)
        newest = repository.commits or KAGGLE_VERSION if repository else KAGGLE_VERSION
        asked = body.get("versionNumber") or body.get("datasetVersionNumber") or newest
        if repository is None or int(asked) != newest:
            return self.reply(404, {"code": 404, "message": "Not found"})
        if repository.gated and not (self.request_note.authorised and repository.accepted):
            status = 403 if self.request_note.authorised else 401
            return self.reply(status, {"code": status, "message": "Permission 'modelInstanceVersions.get' was denied"})
        if method == "GetModelInstance":
            return self.reply(200, {"versionNumber": newest})
        if method == "GetDataset":
            return self.reply(200, {"currentVersionNumber": newest})
        if method == "ListModelInstanceVersionFiles":
            return self.reply(200, {"files": [{"name": name} for name in repository.files], "nextPageToken": ""})
        name = body.get("path") or "archive"
        self.reply(302, Location=self.storage("storage.googleapis.com", "kaggle", handle, name))

    def reply(self, status: int, value: object = None, **headers: str) -> None:
        content = b"" if value is None else json.dumps(value).encode()
        self.request_note.status = status
        self.send_response(status)
        kind = {"Content-Type": "application/json"} if content else {}
        for name, text in {**kind, **headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_content(self, name: str, content: bytes, **headers: str) -> None:
        """A file's bytes from the requested start, with the next faults."""
        name, start = name.rpartition("/")[2], self.request_note.start
        if self.command == "GET" and self.hubs.damaged.get(name, 0) > 0:
            self.hubs.damaged[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        if start >= len(content):
            return self.reply(416, **{"Content-Range": f"bytes */{len(content)}"})
        self.request_note.status = 206 if start else 200
        self.send_response(self.request_note.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for key, text in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(content) - start)}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hubs.cuts.get(name)
        length = cuts.pop(0) if cuts else None
        if length is not None:
            self.wfile.write(content[start : start + length])
            self.connection.shutdown(2)
            self.close_connection = True
        else:
            self.wfile.write(content[start:])


def commit_of(repository: Repository) -> str:
    """The newest commit of a repository: `COMMIT`, and another one after each upload."""
    return COMMIT if not repository.commits else f"{repository.commits:040x}"


def entry(name: str, content: bytes) -> dict:
    """A file as Hugging Face lists it: large files by SHA-256, small ones by git's hash."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    listed = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith((".safetensors", ".parquet", ".bin", ".gguf")):
        sha256 = hashlib.sha256(content).hexdigest()
        listed |= {"lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}, "xetHash": sha256[::-1]}
    return listed


def archive(files: dict[str, bytes]) -> bytes:
    """All files in a zip, as Kaggle serves a data set; always the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as handle:
        for name, content in files.items():
            handle.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


def assert_no_secret_below(folder: Path) -> None:
    """Checks that no file below a folder contains a token, a key or a signature."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert not any(secret.encode() in path.read_bytes() for secret in SECRETS), path
