"""A local server that speaks the hub's HTTP API: listings, revisions, redirects, ranges, refusals.

Files in Git are redirected to a path on the same host; large ones (LFS) to another host, which
here is the same server under the name ``localhost`` and stands for a CDN.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

FIRST, SECOND = "1" * 40, "2" * 40  # commits
LARGE = ".safetensors"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str] = field(default_factory=lambda: {"main": FIRST})
    refusal: tuple[int, str] | None = None  # status and X-Error-Code of every file
    hidden: bool = False  # the API refuses too

    def commit(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with a file's bytes."""

    times: int = 1
    after: int = 0  # bytes, where the connection ends
    reset: bool = False  # by RST instead of FIN
    sent: bytes | None = None  # these instead of the file's


@dataclass
class Request:
    method: str
    path: str
    host: str
    headers: Message


class Hub:
    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.server = server
        self.stopped = Event()
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.status: int | None = None  # of every answer
        self.body = b""  # of it
        self.etag: str | None = None  # of every file
        self.sha: str | None = "as it is"  # the commit that the API names
        self.sizes: dict[str, int] = {}  # what the listing announces instead
        self.stalled = ""  # what a path ends with that is never answered
        self.xet = True  # large files are said to be in Xet's storage too

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def cdn(self) -> str:
        return f"http://localhost:{self.server.server_port}/cdn"

    def loaded(self) -> list[str]:
        """The files whose bytes were asked for, in order."""
        paths = [r.path for r in self.requests if r.method == "GET" and "/api/models" not in r.path]
        return [unquote(path).split("@", 1)[1] for path in paths if "@" in path]

    def api_calls(self) -> list[str]:
        return [r.path for r in self.requests if r.path.startswith("/api/models")]

    def stop(self) -> None:
        """From now on nothing listens."""
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub = Hub(server)  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stop()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined when the server closes; each closes its connection

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections = [*getattr(self, "connections", []), request]
        super().process_request(request, client_address)

    def server_close(self) -> None:
        """Ends the connections that clients keep, whose threads would wait for more."""
        for connection in getattr(self, "connections", []):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        host = self.headers["Host"].partition(":")[0]
        self.hub.requests.append(Request(self.command, path, host, self.headers))
        if self.hub.stalled and path.endswith(self.hub.stalled):
            self.hub.stopped.wait(10)
        elif self.hub.status is not None:
            self._answer(self.hub.status, self.hub.body)
        elif path.startswith(("/cdn/", "/git/")):
            self._content(path)
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/").split("/"))
        elif "/resolve/" in path:
            self._resolve(path)
        else:
            self._answer(404)

    def _answer(self, status: int, body: bytes = b"", /, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def _find(self, model: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit; answers the request where one is not there."""
        repository = self.hub.repositories.get(model)
        if repository is None or repository.hidden:
            self._answer(401, X_Error_Code="RepoNotFound")
        elif commit := repository.commit(unquote(revision)):
            return repository, commit
        else:
            self._answer(404, X_Error_Code="RevisionNotFound")
        return None

    def _api(self, parts: list[str]) -> None:
        what, revision = (*parts[2:4], "revision", "main")[:2] if len(parts) > 2 else ("", "main")
        found = self._find("/".join(parts[:2]), revision)
        if found is None:
            return
        repository, commit = found
        files = repository.commits[commit]
        if what == "tree":
            self._json([_tree_entry(name, content) for name, content in files.items()])
            return
        self._json(
            {
                "id": "/".join(parts[:2]),
                "private": False,
                "disabled": False,
                "gated": "manual" if repository.refusal else False,
                "tags": [],
                "downloads": 1,
                "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "siblings": [_sibling(n, c) | self._size(n) for n, c in files.items()],
                "sha": commit if self.hub.sha == "as it is" else self.hub.sha,
            }
        )

    def _size(self, name: str) -> dict[str, int]:
        return {"size": self.hub.sizes[name]} if name in self.hub.sizes else {}

    def _resolve(self, path: str) -> None:
        model, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        found = self._find(model, revision)
        if found is None:
            return
        repository, commit = found
        content = repository.commits[commit].get(unquote(name))
        if repository.refusal:
            status, code = repository.refusal
            self._answer(status, X_Error_Code=code, X_Error_Message="Access is restricted.")
        elif content is None:
            self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        elif name.endswith(LARGE):
            location = f"{self.hub.cdn}/{model}/{commit}/@{name}"
            self._answer(
                302,
                Location=location,
                X_Repo_Commit=commit,
                X_Linked_Size=str(len(content)),
                X_Linked_Etag=f'"{self.hub.etag or _sha256(content)}"',
                **self._xet(model, commit),
            )
        else:
            self._answer(307, Location=f"/git/{model}/{commit}/@{name}", X_Repo_Commit=commit)

    def _xet(self, model: str, commit: str) -> dict[str, str]:
        """What says that the file is in Xet's storage too."""
        token = f"{self.hub.endpoint}/api/models/{model}/xet-read-token/{commit}"
        link = f'<{token}>; rel="xet-auth"'
        return {"X_Xet_Hash": "ab" * 32, "Link": link} if self.hub.xet else {}

    def _content(self, path: str) -> None:
        place, _, name = unquote(path).partition("/@")
        _, _, owner, model, commit = place.split("/")
        content = self.hub.repositories[f"{owner}/{model}"].commits[commit][name]
        etag = self.hub.etag or (_sha256(content) if name.endswith(LARGE) else _blob_id(content))
        fault = self.hub.faults.get(name) if self.command == "GET" else None
        if fault is not None and fault.times:
            fault.times -= 1
            content = content if fault.sent is None else fault.sent
        else:
            fault = None
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.sent is not None:
            self.wfile.write(content[start:])
            return
        self.wfile.write(content[start : start + fault.after])
        self._end(fault.reset)

    def _end(self, reset: bool) -> None:
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            os.close(self.connection.detach())
        self.close_connection = True


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _blob_id(content)}
    if name.endswith(LARGE):
        entry["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def _tree_entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "oid": _blob_id(content), "size": len(content), "path": name}
    if name.endswith(LARGE):
        lfs = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
        return entry | {"lfs": lfs}
    return entry
