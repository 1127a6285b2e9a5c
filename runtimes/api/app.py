"""The routes and what each of them does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypeVar

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from runtimes.api import openapi, problems
from runtimes.api.answers import answer
from runtimes.api.backends import Backend
from runtimes.api.catalogue import Catalogue
from runtimes.api.contract import parse
from runtimes.api.keys import Keys
from runtimes.api.metrics import CONTENT_TYPE, Metrics
from runtimes.api.observe import Note, Observed, note_of
from runtimes.api.page_files import SECURITY, page_files
from runtimes.api.problems import ApiError
from runtimes.api.settings import Settings
from runtimes.api.work import Work, prepare, route, size_of

JSON = "application/json"
BODY_SECONDS = 30.0  # until a request's body must be there
_IN_THREAD = 4096  # characters, or numbers of an answer, that are not worth a thread
_JSON_SHARE = 16  # bytes of JSON are read in the time that one character is tokenised
T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(kw_only=True)
class Api:
    """One server's parts, and its routes' handlers."""

    settings: Settings
    catalogue: Catalogue
    backend: Backend
    keys: Keys
    metrics: Metrics
    draining: bool = False
    under_way: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._models = msgspec.json.encode(self.catalogue.cards())
        described = openapi.describe(self.catalogue, version("adaptrt"), keys=self.keys.wanted)
        self._openapi = msgspec.json.encode(described)
        self.metrics.watch(self.backend.waiting, self.ready)

    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self.draining and self.backend.ready()

    def app(self) -> ASGIApp:
        """All of it as an ASGI application."""
        routes = [
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/v1/models", self._list_models),
            Route("/health/live", self._live),
            Route("/health/ready", self._ready),
            Route("/metrics", self._metrics_text),
            Route("/openapi.json", self._describe),
            *(Route(path, _static(*file)) for path, file in page_files().items()),
        ]
        origins = list(self.settings.cors_origins)
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["retry-after", "x-adaptrt-ms", "x-request-id"],
        )
        app = Starlette(
            routes=routes,
            middleware=[cors] if origins else [],
            exception_handlers={
                ApiError: _problem,
                HTTPException: _http_problem,
                Exception: _internal,
            },
        )
        app.router.redirect_slashes = False
        paths = [r.path for r in routes]
        return Observed(app, self.metrics, paths, log=self.settings.access_log)

    async def _embeddings(self, request: Request) -> Response:
        self._check_key(request)
        self._admit()
        self.under_way += 1
        self.metrics.in_flight.set(self.under_way)
        try:
            return await self._answered(request)
        finally:
            self.under_way -= 1
            self.metrics.in_flight.set(self.under_way)

    async def _answered(self, request: Request) -> Response:
        """Within the deadline, and only as long as the client is there."""
        end = time.monotonic() + self.settings.deadline
        try:
            body = await self._body(request, min(BODY_SECONDS, self.settings.deadline))
            answering = asyncio.ensure_future(self._answer(body, note_of(request.scope)))
            leaving = asyncio.ensure_future(_left(request))
            try:
                await asyncio.wait(
                    (answering, leaving),
                    timeout=max(0.0, end - time.monotonic()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                for task in (answering, leaving):
                    task.cancel()
                await asyncio.wait((answering, leaving))
        except ClientDisconnect:
            return self._gone(request)
        if not answering.cancelled():
            return answering.result()
        if not leaving.cancelled():
            return self._gone(request)
        raise ApiError(
            problems.DEADLINE,
            f"not embedded within {self.settings.deadline:g} s; send fewer texts, or try later",
            retry_after=1,
        )

    async def _answer(self, body: bytearray, note: Note) -> Response:
        found = await _maybe_in_thread(
            len(body) // _JSON_SHARE, lambda: route(parse(body), self.catalogue, self.settings)
        )
        note.model, note.task, note.texts = found.served.model, found.task, len(found.inputs)
        work = await _maybe_in_thread(size_of(found), lambda: prepare(found, self.settings))
        note.tokens = work.tokens
        vectors = await self.backend.embed(work)
        numbers = work.texts_count * work.width
        content = await _maybe_in_thread(numbers, lambda: answer(work, vectors))
        self._count(work)
        return Response(content, media_type=JSON)

    def _count(self, work: Work) -> None:
        labels = (work.served.model, work.task)
        self.metrics.texts.labels(*labels).inc(work.texts_count)
        self.metrics.tokens.labels(*labels).inc(work.tokens)
        self.metrics.truncated.inc(len(work.truncated))

    async def _body(self, request: Request, seconds: float) -> bytearray:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise ApiError(problems.ENCODED, "content-encoding: send the body as it is", close=True)
        most = self.settings.max_bytes
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > most:
            if int(stated) <= 2 * most:
                await _read_away(request, seconds)
            raise _size_error(most)
        body = bytearray()
        try:
            with anyio.fail_after(seconds):
                async for piece in request.stream():
                    body += piece
                    if len(body) > most:
                        raise _size_error(most)
        except TimeoutError as error:
            raise ApiError(
                problems.SLOW_BODY, f"the body was not there within {seconds:g} s", close=True
            ) from error
        return body

    def _gone(self, request: Request) -> Response:
        """Nobody reads it; the log says what happened."""
        note = note_of(request.scope)
        note.status, note.code = problems.GONE.status, problems.GONE.code
        return Response(status_code=problems.GONE.status)

    def _check_key(self, request: Request) -> None:
        if not self.keys.allows(request.headers.get("authorization")):
            raise ApiError(
                problems.NO_KEY, "a key is needed: send the header Authorization: Bearer KEY"
            )

    def _admit(self) -> None:
        if self.draining:
            raise ApiError(problems.DRAINING, "the server is ending", retry_after=1, close=True)
        if self.under_way >= self.settings.max_concurrent:
            raise ApiError(
                problems.BUSY,
                f"{self.under_way} requests are under way already; send it again later",
                retry_after=1,
            )

    async def _list_models(self, request: Request) -> Response:
        self._check_key(request)
        return Response(self._models, media_type=JSON)

    async def _live(self, request: Request) -> Response:
        return Response(b'{"status":"live"}', media_type=JSON)

    async def _ready(self, request: Request) -> Response:
        if self.ready():
            return Response(b'{"status":"ready"}', media_type=JSON)
        state = b'{"status":"draining"}' if self.draining else b'{"status":"no encoder"}'
        return Response(state, 503, {"retry-after": "1"}, media_type=JSON)

    async def _metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def _describe(self, request: Request) -> Response:
        return Response(self._openapi, media_type=JSON)


async def _maybe_in_thread(size: int, work: Callable[[], T]) -> T:
    """What takes long would keep all other requests waiting."""
    return work() if size <= _IN_THREAD else await asyncio.to_thread(work)


async def _read_away(request: Request, seconds: float) -> None:
    """The rest of a body: a client that is still sending would not see the answer."""
    with anyio.move_on_after(seconds):
        async for _ in request.stream():
            pass


async def _left(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _static(content: bytes, media_type: str) -> Endpoint:
    async def serve(request: Request) -> Response:
        return Response(content, headers={**SECURITY, "content-type": media_type})

    return serve


def _size_error(most: int) -> ApiError:
    message = f"the body has more than {most} bytes; send fewer texts at a time"
    return ApiError(problems.TOO_LARGE, message, close=True)


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    note_of(request.scope).code = error.kind.code
    return Response(error.body(), error.kind.status, error.headers(), media_type=JSON)


async def _http_problem(request: Request, error: Exception) -> Response:
    """What the router refuses: a path or a method that is not there."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == problems.NO_METHOD.status:
        allowed = (error.headers or {}).get("Allow", "")
        problem = ApiError(
            problems.NO_METHOD, f"got {request.method[:16]}, expected {allowed or 'another method'}"
        )
        answered = await _problem(request, problem)
        answered.headers["allow"] = allowed
        return answered
    return await _problem(request, ApiError(problems.NO_ROUTE, "no such path; see /openapi.json"))


async def _internal(request: Request, error: Exception) -> Response:
    """A mistake of ours; uvicorn writes its traceback into the log."""
    message = "a mistake in the server; its log says more"
    return await _problem(request, ApiError(problems.INTERNAL, message))
