"""The embedder's interface in front of a Triton server that serves one of our repositories."""

from __future__ import annotations

import importlib
import math
import random
import socket
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from runtimes.arguments import check_flag, check_whole, list_tasks, list_texts
from runtimes.arrays import Vectors
from runtimes.errors import AdaptrtError, InputError, MissingError, one_line, shown
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.serving import requests
from runtimes.text.chunks import ChunkVectors, Cut, Span, Window
from runtimes.text.tokens import TruncationWarning, check_text, groups

_TYPES = {"int32": "INT32", "bool": "BOOL", "object": "BYTES"}
_BAD_INPUT = {"400", "StatusCode.INVALID_ARGUMENT"}
# Overload (queue full, queue timeout) and what a restart or a proxy answers meanwhile.
_TRANSIENT = {
    "429",
    "502",
    "503",
    "504",
    "StatusCode.UNAVAILABLE",
    "StatusCode.DEADLINE_EXCEEDED",
    "StatusCode.RESOURCE_EXHAUSTED",
}
# What gRPC says of a server that speaks HTTP/1, and of one that it cannot speak to at all: none, or
# Triton's HTTP port, which hangs up.
_OTHER_PROTOCOL = ("Failed parsing HTTP/2", "http1.x server")
_NO_ANSWER = "failed to connect to all addresses"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts
_FIRST_CONTACT = 5.0  # seconds
# Characters of a request's texts; as bytes no more than one text may have by default.
_REQUEST = 1 << 18


class TritonEmbedder(RuntimeBase):
    """Embeds texts on a server; one connection, over HTTP for one thread. A copy opens its own.

    >>> TritonEmbedder("grpc://localhost:8001").encode(["Guten Tag"], task="classification").shape
    (1, 256)
    """

    reopen = "connect again"

    def __init__(self, url: str, *, batch_size: int = 64, deadline: float = 60.0) -> None:
        """``url`` is ``http://host:port`` or ``grpc://host:port``.

        A list of texts goes out in requests of ``batch_size``, or fewer where they are long. A
        request that fails for reasons that pass (overload, a restarting server) is sent again until
        ``deadline`` seconds are over. That ends after 5 s as long as
        no server has ever answered.
        """
        scheme, address = _parse_url(url)
        check_whole("batch_size", batch_size, 1)
        number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
        if not number or not 0 < deadline < math.inf:
            raise InputError(f"deadline: got {shown(deadline)}, expected seconds above 0")
        try:
            self._module = importlib.import_module(f"tritonclient.{scheme}")
            self._error = importlib.import_module("tritonclient.utils").InferenceServerException
        except ImportError as error:
            raise MissingError(
                f"tritonclient is not installed ({error}); pip install 'adaptrt[serve]'"
            ) from error
        self._url, self._http = url, scheme == "http"
        self._batch_size, self._deadline = batch_size, deadline
        # Refused, reset, timed out, closed: what passes when a server restarts.
        closed = _closed_by_server() if self._http else ()
        self._passing: tuple[type[Exception], ...] = (OSError, *closed)
        timeouts = {"network_timeout": deadline, "connection_timeout": deadline}
        self._client = self._module.InferenceServerClient(
            address, **(timeouts if self._http else {})
        )
        self._thread = threading.get_ident()
        self._reached = self._answered = False
        self._parameters: dict[str, str] | None = None
        self._reload = partial(type(self), url, batch_size=batch_size, deadline=deadline)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The lengths a vector can be cut to; the last is the full length."""
        return tuple(int(d) for d in self._parameter("dimensions").split(","))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks served."""
        return tuple(self._parameter("tasks").split(","))

    @property
    def max_bytes(self) -> int:
        """What the server takes of one text, in bytes of UTF-8."""
        return int(self._parameter("max_bytes"))

    @while_open
    def encode(
        self,
        texts: Iterable[str],
        *,
        task: str | Iterable[str] | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
        strict: bool = False,
        progress: bool = False,
    ) -> Vectors:
        """As :meth:`runtimes.Embedder.encode`: FP32 ``[n, dimensions]``.

        How long a text may be is the server's setting, :attr:`max_bytes`. ``task`` may be left out
        where the server has one.
        """
        listed = list_texts(texts)
        for index, text in enumerate(listed):
            self._check_text(text, f"text {index}")
        tasks = list_tasks(task, len(listed))
        check_flag("strict", strict)
        options = _options(dimensions, prefix) | {requests.TRUNCATE: not strict}
        if not listed:
            return np.empty((0, dimensions or self.dimensions[-1]), np.float32)
        parts = []
        parcels = list(groups(map(len, listed), _REQUEST, self._batch_size))
        for rows in _with_progress(parcels) if check_flag("progress", progress) else parcels:
            batch = {
                requests.TEXT: [listed[i] for i in rows],
                requests.TASK: [tasks[i] for i in rows] if tasks else None,
            }
            try:
                found = self._ask(batch | options, [requests.EMBEDDING, requests.WARNINGS])
            except InputError as error:
                raise InputError(requests.renumber(str(error), rows)) from error
            for message in found[requests.WARNINGS]:
                words = requests.renumber(message.decode(), rows)
                warnings.warn(words, TruncationWarning, stacklevel=3)
            parts.append(found[requests.EMBEDDING])
        return np.concatenate(parts)

    @while_open
    def encode_chunks(
        self,
        document: str,
        chunks: Iterable[Span] | None = None,
        *,
        chunk_tokens: int | None = None,
        sentences: int | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
    ) -> ChunkVectors:
        """As :meth:`runtimes.Embedder.encode_chunks`; needs a bundle with a chunk head there."""
        self._check_text(document, "document")
        cut = Cut.parse(chunks, chunk_tokens, sentences)
        tasks = list_tasks(task, 1)
        found = self._ask(
            _options(dimensions, prefix)
            | {
                requests.TEXT: [document],
                requests.TASK: tasks,
                requests.LATE_CHUNKING: True,
                requests.CHUNKS: None if cut.chunks is None else np.array(cut.chunks, np.int32),
                requests.CHUNK_TOKENS: cut.chunk_tokens,
                requests.SENTENCES: cut.sentences,
            },
            [requests.EMBEDDING, requests.SPANS, requests.WINDOWS],
        )
        return ChunkVectors(
            vectors=found[requests.EMBEDDING],
            spans=tuple((int(start), int(end)) for start, end, _ in found[requests.SPANS]),
            windows=tuple(
                Window(start=int(s), end=int(e), tokens=int(n))
                for s, e, n in found[requests.WINDOWS]
            ),
            window_of=tuple(int(window) for *_, window in found[requests.SPANS]),
        )

    def _free(self) -> None:
        self._client.close()

    def _check_text(self, text: object, where: str) -> None:
        """The server is asked for its limit, and not sent the text, only where it matters."""
        check_text(text, where)
        if isinstance(text, str) and len(text) > _REQUEST:
            check_text(text, where, self.max_bytes)

    @while_open
    def _parameter(self, name: str) -> str:
        if self._parameters is None:
            answer = self._retry(self._model_config)
            given = answer.get("parameters", {}).items()
            self._parameters = {n: v["string_value"] for n, v in given}
        if name not in self._parameters:
            raise AdaptrtError(
                f"{self._url}: its model {requests.MODEL} has no parameter {name}; it is not of a "
                "repository that `make triton` wrote"
            )
        return self._parameters[name]

    def _model_config(self, left: float) -> dict[str, Any]:
        if self._http:
            config: dict[str, Any] = self._client.get_model_config(requests.MODEL)
            return config
        answer = self._client.get_model_config(requests.MODEL, as_json=True, client_timeout=left)
        whole: dict[str, Any] = answer["config"]
        return whole

    def _ask(self, inputs: Mapping[str, Any], wanted: list[str]) -> dict[str, NDArray[Any]]:
        tensors = [self._tensor(n, _array(v)) for n, v in inputs.items() if v is not None]
        outputs = [self._module.InferRequestedOutput(name) for name in wanted]

        def send(left: float) -> Any:
            limit = {} if self._http else {"client_timeout": left}
            return self._client.infer(requests.MODEL, tensors, outputs=outputs, **limit)

        answer = self._retry(send)
        return {name: answer.as_numpy(name) for name in wanted}

    def _tensor(self, name: str, array: NDArray[Any]) -> Any:
        tensor = self._module.InferInput(name, list(array.shape), _TYPES[str(array.dtype)])
        tensor.set_data_from_numpy(array)
        return tensor

    def _retry(self, send: Any) -> Any:
        """Try until the deadline, with pauses that double and differ between clients."""
        if self._http and threading.get_ident() != self._thread:  # its greenlets would never wake
            raise AdaptrtError(
                f"{self._url}: used in another thread than it was made in; make one in each"
            )
        begin = time.monotonic()
        if not self._reached:
            self._connect(begin)
        for _ in self._attempts(begin):
            try:
                answer = send(max(begin + self._deadline - time.monotonic(), 0.001))
            except self._error as error:
                message, status = one_line(str(error.message())), error.status()
                self._answered = self._answered or _NO_ANSWER not in message
                if status in _BAD_INPUT:
                    raise InputError(message) from error
                if any(words in message for words in _OTHER_PROTOCOL):
                    raise self._wrong_protocol("gRPC", "HTTP") from error
                if status not in _TRANSIENT:
                    raise AdaptrtError(f"{self._url}: {message}") from error
                last: Exception = error
            except self._passing as error:
                last = error
            except HTTPException as error:
                raise self._wrong_protocol("HTTP", "gRPC") from error
            else:
                self._answered = True
                return answer
        waited = round(max(self._patience, time.monotonic() - begin), 1)
        raise AdaptrtError(
            f"{self._url}: no answer within {waited:g} s ({one_line(str(last))}); is the "
            f"server up, are its models ready, and is this its {'HTTP' if self._http else 'gRPC'} "
            "port?"
        ) from last

    def _connect(self, begin: float) -> None:
        """See whether anything listens; gRPC and HTTP would take the whole deadline for it."""
        place = urlsplit(self._url)
        for left in self._attempts(begin):
            try:
                socket.create_connection((place.hostname, place.port), left).close()
            except OSError as error:
                last = error
            else:
                self._reached = True
                return
        raise AdaptrtError(
            f"{self._url}: nothing listens there ({one_line(str(last))}); start the server "
            "(`make serve`), or check host and port"
        ) from last

    @property
    def _patience(self) -> float:
        """Seconds; a server that has never answered is more likely none of ours than busy."""
        return self._deadline if self._answered else min(self._deadline, _FIRST_CONTACT)

    def _attempts(self, begin: float) -> Iterator[float]:
        """The seconds left, at once and after each pause, as long as there are any."""
        pause = _FIRST_PAUSE
        while True:
            yield max(begin + self._patience - time.monotonic(), 0.001)
            wait = random.uniform(pause / 2, pause)
            if time.monotonic() + wait >= begin + self._patience:
                return
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _wrong_protocol(self, ours: str, theirs: str) -> AdaptrtError:
        return AdaptrtError(
            f"{self._url}: what listens there does not speak {ours}; is it the server's "
            f"{theirs} port?"
        )


def _parse_url(url: object) -> tuple[str, str]:
    """Scheme and address; :class:`InputError` for what is not one of the two forms."""
    expected = "expected http://host:port or grpc://host:port"
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        complete = parts.hostname and parts.port
    except ValueError:  # a port that is no number, or brackets without an address
        complete = None
    if not complete or parts.scheme not in ("http", "grpc") or parts.query or parts.fragment:
        tls = isinstance(url, str) and url.startswith(("https:", "grpcs:"))
        note = " (TLS is not supported; a proxy beside the client can add it)" if tls else ""
        raise InputError(f"url: got {shown(url)}, {expected}{note}")
    return parts.scheme, parts.netloc + parts.path.rstrip("/")


def _closed_by_server() -> tuple[type[Exception], ...]:
    """HTTP's error of a connection that ended before the answer; an HTTPException."""
    error: type[Exception] = importlib.import_module(
        "geventhttpclient.response"
    ).HTTPConnectionClosed
    return (error,)


def _options(dimensions: int | None, prefix: bool) -> dict[str, int | bool | None]:
    if dimensions is not None:
        check_whole("dimensions", dimensions, 1)
    return {requests.DIMENSIONS: dimensions, requests.PREFIX: check_flag("prefix", prefix)}


def _with_progress(parcels: list[range]) -> Iterable[range]:
    from tqdm import tqdm

    bar: Iterable[range] = tqdm(parcels, unit="request", disable=None, leave=False)
    return bar


def _array(value: Any) -> NDArray[Any]:
    """Texts, a number or a flag as the tensor that carries it."""
    if isinstance(value, list):
        return np.array([text.encode() for text in value], np.object_)
    if isinstance(value, bool):
        return np.array([value])
    return value if isinstance(value, np.ndarray) else np.array([value], np.int32)
