"""A Hugging Face Hub on loopback: the routes that huggingface_hub uses, with faults on demand.

``HubServer({"org/repo": {"model.safetensors": data}})`` is a context manager; ``server.url`` goes
into ``HF_ENDPOINT``, ``server.environment(cache)`` is the whole environment for a subprocess, and
``server.patch(monkeypatch, cache)`` points this process at it. Contents may be bytes or paths.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".bin", ".pth", ".h5", ".npz")


class Repo:
    """Commits of files, and the branches and tags that point at them."""

    def __init__(self, files: Mapping[str, bytes | Path], private=False, gated=False):
        self.commits: dict[str, dict[str, bytes | Path]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.private = private
        self.gated = gated
        self.commit(files)

    def commit(self, files: Mapping[str, bytes | Path], branch: str = "main") -> str:
        """Adds files to a branch; returns the commit's name."""
        old = self.commits.get(self.branches.get(branch, ""), {})
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = {**old, **files}
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        named = self.branches.get(revision) or self.tags.get(revision)
        return named or (revision if revision in self.commits else None)


@dataclass
class Faults:
    """What goes wrong; each holds until it is taken back.

    Attributes:
      status: answers every request with this HTTP status.
      error_code: the ``X-Error-Code`` that goes with it.
      status_times: how many requests ``status`` holds for; None for all.
      cut_after: place in a file at which the connection is closed.
      cut_times: how often that happens; None for always.
      corrupt: flips a byte of each file's body.
      pause: seconds before each answer.
      hold: while true, bodies stop after their first kilobyte.
      not_a_hub: answers HEAD without any of the Hub's headers.
    """

    status: int = 0
    error_code: str = ""
    status_times: int | None = None
    cut_after: int | None = None
    cut_times: int | None = None
    corrupt: bool = False
    pause: float = 0.0
    hold: bool = False
    not_a_hub: bool = False


@dataclass
class HubServer:
    """The server; see the module.

    Attributes:
      repos: by ``"org/repo"``; plain dictionaries of files become ``Repo``s.
      faults: what goes wrong now.
      requests: method, path and ``Range`` of each request so far.
      redirect: whether large files come from another host, as from the Hub's CDN.
      stored: the large files of uploads, and those that are on that host, by their SHA-256.
      home: the ``HF_HOME`` of ``patch``.
    """

    repos: dict = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    redirect: bool = False
    stored: dict[str, bytes] = field(default_factory=dict)
    home: Path = Path()

    def __post_init__(self):
        self.repos = {
            name: files if isinstance(files, Repo) else Repo(files)
            for name, files in self.repos.items()
        }
        self._connections: list[socket.socket] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Goes down: open connections end, later ones are refused."""
        self._http.shutdown()
        self._http.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def count(self, method: str, part: str = "") -> int:
        return sum(m == method and part in path for m, path, _ in self.requests)

    def cached_files(self) -> list[Path]:
        """What the cache holds of repositories' files, after ``patch``.

        Without ``.incomplete`` ones, which some versions of huggingface_hub keep to resume from.
        """
        return [
            path
            for path in (self.home / "hub").rglob("*")
            if {"blobs", "snapshots"} & set(path.parts)
            and (path.is_file() or path.is_symlink())
            and path.suffix != ".incomplete"
        ]

    def environment(self, cache: str | os.PathLike[str], **more: str) -> dict[str, str]:
        """The environment of a process that uses this server and an HF_HOME of its own."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return {
            **ours,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **more,
        }

    def patch(self, monkeypatch, home: Path) -> None:
        """Points this process at the server: huggingface_hub reads the environment at import."""
        from huggingface_hub import constants

        self.home = home
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HOME", str(home))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        harnesses = str(home / ".agent_harnesses.json")
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", harnesses, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)


def etag_of(name: str, data: bytes) -> str:
    """The Hub's: SHA-256 of large files, git's digest of others."""
    if name.endswith(LFS):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def setup(self):
            super().setup()
            server._connections.append(self.connection)

        def handle(self):
            # A client that is interrupted leaves in mid-answer.
            try:
                super().handle()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def do_POST(self):
            self.answer()

        def do_PUT(self):
            self.answer()

        def answer(self):
            path = urlsplit(self.path).path
            body = self.read_body()
            if path == "/api/agent-harnesses":
                # huggingface_hub asks this once a day on its own account.
                return self.json({})
            server.requests.append((self.command, path, self.headers.get("Range", "")))
            faults = server.faults
            time.sleep(faults.pause)
            if faults.status and faults.status_times != 0:
                if faults.status_times is not None:
                    faults.status_times -= 1
                return self.refuse(faults.status, faults.error_code)
            for method, pattern, name in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method:
                    parts = [unquote(part) for part in found.groups()]
                    return getattr(self, name)(*parts, body=body)
            return self.refuse(404, "")

        def read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def refuse(self, status: int, code: str, message: str = ""):
            headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"}
            self.send_headers(status, {k: v for k, v in headers.items() if v})

        def json(self, value):
            data = json.dumps(value).encode()
            kind = {"Content-Type": "application/json", "Content-Length": str(len(data))}
            self.send_headers(200, kind)
            self.wfile.write(data)

        def find(self, repo_id: str, revision: str = "main"):
            """The repository and the commit, or None where it has answered that there is none."""
            repo = server.repos.get(repo_id)
            stranger = not self.headers.get("Authorization")
            if repo is None or (repo.private and stranger):
                self.refuse(401 if stranger else 404, "RepoNotFound")
                return None
            if repo.gated and stranger:
                self.refuse(401, "GatedRepo")
                return None
            commit = repo.resolve(revision)
            if commit is None:
                self.refuse(404, "RevisionNotFound")
                return None
            return repo, commit

        def file(self, repo_id: str, revision: str, name: str, *, body: bytes):
            if (found := self.find(repo_id, revision)) is None:
                return
            repo, commit = found
            content = repo.commits[commit].get(name)
            if content is None:
                missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
                self.send_headers(404, {**missing, "Content-Length": "0"})
                return
            data = content if isinstance(content, bytes) else Path(content).read_bytes()
            etag = etag_of(name, data)
            headers = {}
            if not server.faults.not_a_hub:
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
                if name.endswith(LFS):
                    headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            if server.redirect and name.endswith(LFS):
                server.stored[etag] = data
                place = server.url.replace("127.0.0.1", "localhost")
                headers |= {"ETag": '"of-the-pointer"', "Location": f"{place}/cdn/{etag}"}
                self.send_headers(302, {**headers, "Content-Length": "0"})
            else:
                self.send_file(data, headers)

        def stored(self, etag: str, *, body: bytes):
            # A signed address: credentials of the Hub must not come here.
            if self.headers.get("Authorization"):
                self.refuse(400, "", "Only one auth mechanism allowed")
            else:
                self.send_file(server.stored[etag], {"ETag": '"of-the-store"'})

        def send_headers(self, status: int, headers: dict[str, str]):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def send_file(self, data: bytes, headers: dict[str, str]):
            start = 0
            if self.headers.get("Range"):
                start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            headers |= {"Accept-Ranges": "bytes", "Content-Length": str(len(data) - start)}
            self.send_headers(206 if start else 200, headers)
            if self.command == "GET":
                self.send_body(data, start)

        def send_body(self, data: bytes, start: int):
            faults = server.faults
            if faults.corrupt:
                data = bytes([data[0] ^ 1]) + data[1:]
            end = len(data)
            cut = faults.cut_after is not None and faults.cut_times != 0
            if cut:
                if faults.cut_times is not None:
                    faults.cut_times -= 1
                end = min(end, max(start, faults.cut_after))
            middle = min(start + 1024, end)
            self.wfile.write(data[start:middle])
            while faults.hold:
                time.sleep(0.01)
            self.wfile.write(data[middle:end])
            if cut:
                self.wfile.flush()
                self.close_connection = True

        def info(self, repo_id: str, revision: str = "main", *, body: bytes):
            if (found := self.find(repo_id, revision)) is not None:
                repo, commit = found
                siblings = [{"rfilename": name} for name in sorted(repo.commits[commit])]
                self.json({"id": repo_id, "sha": commit, "siblings": siblings})

        def tree(self, repo_id: str, revision: str, *, body: bytes):
            if (found := self.find(repo_id, revision)) is not None:
                repo, commit = found
                files = repo.commits[commit]
                self.json([{"type": "file", "path": name} for name in sorted(files)])

        def refs(self, repo_id: str, *, body: bytes):
            if (found := self.find(repo_id)) is not None:
                repo = found[0]
                groups = {"branches": (repo.branches, "heads"), "tags": (repo.tags, "tags")}
                self.json(
                    {
                        "converts": [],
                        **{
                            key: [
                                {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c}
                                for n, c in names.items()
                            ]
                            for key, (names, kind) in groups.items()
                        },
                    }
                )

        # What upload_folder needs.

        def create(self, *, body: bytes):
            if not self.headers.get("Authorization"):
                return self.refuse(401, "", "Invalid username or password.")
            wanted = json.loads(body)
            name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
            if name not in server.repos:
                private = wanted.get("private") or wanted.get("visibility") == "private"
                server.repos[name] = Repo({}, private=private)
            return self.json({"url": f"{server.url}/{name}"})

        def branch(self, repo_id: str, name: str, *, body: bytes):
            if (found := self.find(repo_id)) is not None:
                repo = found[0]
                if name in repo.branches:
                    return self.refuse(409, "")
                repo.branches[name] = repo.branches["main"]
                self.json({})
            return None

        def validate(self, *, body: bytes):
            self.json({"errors": [], "warnings": []})

        def preupload(self, repo_id: str, revision: str, *, body: bytes):
            if self.find(repo_id, revision) is not None:
                modes = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(LFS) else "regular",
                        "shouldIgnore": False,
                    }
                    for f in json.loads(body)["files"]
                ]
                self.json({"files": modes})

        def batch(self, repo_id: str, *, body: bytes):
            objects = [
                {**o, "actions": {"upload": {"href": f"{server.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.json({"transfer": "basic", "objects": objects})

        def put(self, oid: str, *, body: bytes):
            if hashlib.sha256(body).hexdigest() != oid:
                return self.refuse(400, "")
            server.stored[oid] = body
            return self.json({})

        def commit(self, repo_id: str, revision: str, *, body: bytes):
            if (found := self.find(repo_id, revision)) is None:
                return
            files = {}
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = server.stored[value["oid"]]
            sha = found[0].commit(files, revision)
            self.json({"commitUrl": f"{server.url}/{repo_id}/commit/{sha}", "commitOid": sha})

    return Handler


_REPO = r"([^/]+/[^/]+)"
_ROUTES = (
    (("POST",), r"/api/repos/create", "create"),
    (("POST",), r"/api/validate-yaml", "validate"),
    (("GET",), rf"/api/models/{_REPO}/refs", "refs"),
    (("POST",), rf"/api/models/{_REPO}/branch/(.+)", "branch"),
    (("GET",), rf"/api/models/{_REPO}/revision/([^/]+)", "info"),
    (("GET",), rf"/api/models/{_REPO}/tree/([^/]+)", "tree"),
    (("GET",), rf"/api/models/{_REPO}", "info"),
    (("POST",), rf"/api/models/{_REPO}/preupload/([^/]+)", "preupload"),
    (("POST",), rf"/api/models/{_REPO}/commit/([^/]+)", "commit"),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", "batch"),
    (("PUT",), r"/lfs/([0-9a-f]{64})", "put"),
    (("GET",), r"/cdn/([0-9a-f]{64})", "stored"),
    (("GET", "HEAD"), rf"/{_REPO}/resolve/([^/]+)/(.+)", "file"),
)
