"""A hub on 127.0.0.1 that answers what huggingface_hub asks for when it loads a model, and fails in the ways a real one does.

As on the real hub, large files are redirected to another host (here "localhost", the same server), which must not see a token.
Tests get it as the fixture `server` of `hub_fixtures`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

GOLDEN = Path(__file__).parent / "golden"
STOCK = "hugggof/vampnet"
FILES = ("codec.pth", "coarse.pth", "c2f.pth")


@dataclass
class Repo:
    """A repository of one commit: {file name: content}; with `etag` it tells all large files to be of that checksum."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    etag: str | None = None
    refs: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted((name, hash_git(data)) for name, data in self.files.items())).encode()).hexdigest()


@dataclass
class Asked:
    """One request, and how many bytes of a body went back."""

    method: str
    path: str
    host: str
    range: str | None
    token: str | None
    sent: int = 0


@dataclass
class Hub:
    """The state of the server; tests change it as they like.

    Attributes:
        url: for HF_ENDPOINT.
        repos: {"owner/repo": Repo}.
        tokens: those that may read private and gated repositories.
        breaks: {file name: after how many bytes of each coming answer the connection breaks}; used up from the front.
        wrong: names of files of which the last byte is sent wrong.
        ranges: whether Range is understood.
        fail: a status that every answer has, with a page of HTML; 200 is a log-in page.
        asked: all requests.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    ranges: bool = True
    fail: int | None = None
    asked: list[Asked] = field(default_factory=list)

    def downloads(self, name: str) -> list[Asked]:
        """The requests that were for the bytes of a file, by its path in whichever repository."""
        digests = {hash_lfs(repo.files[name]) for repo in self.repos.values() if name in repo.files}
        return [one for one in self.asked if one.method == "GET" and one.path.rpartition("/")[2] in digests]


def hash_git(data: bytes) -> str:
    """What git calls a file: the SHA-1 of "blob <size>\\0" and its bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def hash_lfs(data: bytes) -> str:
    """What LFS calls a file: the SHA-256 of its bytes."""
    return hashlib.sha256(data).hexdigest()


def is_lfs(name: str) -> bool:
    """Whether the hub keeps a file in its store for large ones; it leaves texts to git."""
    return not name.endswith((".json", ".md"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer()

    def do_GET(self) -> None:  # noqa: N802
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        header = self.headers.get
        self.one = Asked(self.command, path, header("Host", "").partition(":")[0], header("Range"), header("Authorization"))
        self.hub.asked.append(self.one)
        parts = path.strip("/").split("/")
        if self.hub.fail is not None:
            self._send(self.hub.fail, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif parts[0] == "store":
            self._stored(parts[1])
        elif parts[:2] == ["api", "models"]:
            self._info("/".join(parts[2:4]), "/".join(parts[5:]) or "main")
        else:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _send(self, status: int, body: bytes, headers: dict[str, str], name: str = "") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.wrong:
            body = body[:-1] + bytes([body[-1] ^ 1])
        breaks = self.hub.breaks.get(name)
        if breaks:
            body = body[: breaks.pop(0)]
            self.close_connection = True
        self.one.sent = len(body)
        self.wfile.write(body)

    def _deny(self, status: int, code: str | None, message: str) -> None:
        self._send(status, b"{}", {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}))

    def _repo(self, name: str, revision: str, listing: bool) -> Repo | None:
        """The repository, if it may be read at this revision; otherwise the refusal has been sent."""
        repo, token = self.hub.repos.get(name), (self.one.token or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            self._deny(401, None, "Invalid credentials in Authorization header")
        elif not token and (repo is None or repo.private):
            # The real hub does not tell those without a token which of the two it is.
            self._deny(401, None, "Invalid username or password.")
        elif repo is None:
            self._deny(404, "RepoNotFound", "Repository not found")
        elif revision not in (*repo.refs, repo.commit):
            self._deny(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif repo.gated and not token and not listing:
            self._deny(401, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            return repo
        return None

    def _info(self, name: str, revision: str) -> None:
        repo = self._repo(name, revision, listing=True)
        if repo is None:
            return
        siblings = []
        for file, data in repo.files.items():
            one = {"rfilename": file, "size": len(data), "blobId": hash_git(data)}
            if is_lfs(file):
                one["lfs"] = {"size": len(data), "sha256": hash_lfs(data), "pointerSize": 134}
            siblings.append(one)
        info = {"_id": "1", "id": name, "sha": repo.commit, "private": repo.private, "tags": [], "siblings": siblings}
        self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repo = self._repo(name, revision, listing=False)
        if repo is None:
            return
        commit = {"X-Repo-Commit": repo.commit}
        if file not in repo.files:
            return self._send(404, b"", {**commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        data = repo.files[file]
        if not is_lfs(file):
            return self._send(200, data, {**commit, "ETag": f'"{hash_git(data)}"'}, file)
        digest, store = hash_lfs(data), self.hub.url.replace("127.0.0.1", "localhost")
        linked = {"X-Linked-Etag": f'"{repo.etag or digest}"', "X-Linked-Size": str(len(data)), "ETag": '"of the redirect"'}
        self._send(302, b"", {**commit, **linked, "Location": f"{store}/store/{digest}"})

    def _stored(self, digest: str) -> None:
        found = [(n, d) for repo in self.hub.repos.values() for n, d in repo.files.items() if hash_lfs(d) == digest]
        name, data = found[0]
        if not (self.one.range and self.hub.ranges):
            return self._send(200, data, {}, name)
        start = int(self.one.range.removeprefix("bytes=").partition("-")[0])
        if start >= len(data):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        self._send(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, name)


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub without repositories, which lives as long as the context."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
