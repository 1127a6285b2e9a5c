"""Around every request: its number, its line in the log, and what the metrics count of it."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtimes.api.metrics import Metrics

access = logging.getLogger("adaptrt.access")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOTE = "adaptrt.note"
# What asks every few seconds whether all is well; with --verbose they have lines too.
_PROBES = frozenset({"/health/live", "/health/ready", "/metrics"})


@dataclass(kw_only=True)
class Note:
    """What the log says of a request besides what every request has; never a text of it."""

    model: str | None = None
    task: str | None = None
    texts: int | None = None
    tokens: int | None = None
    code: str | None = None
    status: int | None = None  # instead of the one that was sent, where nobody read it


def note_of(scope: Scope) -> Note:
    """The request's note, which its handler fills in."""
    note: Note = scope[_NOTE]
    return note


class Observed:
    """The outermost layer."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: Collection[str], *, log: bool
    ) -> None:
        self._app, self._metrics, self._routes, self._log = app, metrics, frozenset(routes), log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        note = scope[_NOTE] = Note()
        number = _request_id(Headers(scope=scope).get("x-request-id"))
        status, size = 500, 0

        async def observed(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = number
                headers["x-adaptrt-ms"] = f"{(time.perf_counter() - start) * 1000:.2f}"
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            seconds = time.perf_counter() - start
            self._count(scope, note, note.status or status, seconds)
            if self._log:
                self._write(scope, note, note.status or status, seconds, size, number)

    def _count(self, scope: Scope, note: Note, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self._routes else "other"
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if note.code is not None:
            self._metrics.problems.labels(note.code).inc()

    def _write(
        self, scope: Scope, note: Note, status: int, seconds: float, size: int, number: str
    ) -> None:
        client = scope.get("client")
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": number,
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "bytes": size,
            **{k: v for k, v in asdict(note).items() if v is not None and k != "status"},
        }
        level = logging.DEBUG if scope["path"] in _PROBES and status < 400 else logging.INFO
        access.log(level, "%s", msgspec.json.encode(entry).decode())


def _request_id(given: str | None) -> str:
    """The client's own where it is one that a log can hold."""
    return given if given and _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
