"""A connection to a Triton server over HTTP or gRPC, which sends again what fails for a while."""

from __future__ import annotations

import importlib
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from numpy.typing import NDArray

from runtimes.arrays import Arrays
from runtimes.errors import AdaptrtError, InputError, MissingError, one_line, shown

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


class Connection:
    """One connection, over HTTP for one thread alone.

    A request that fails for reasons that pass is sent again until ``deadline`` seconds are over,
    or 5 as long as no server has ever answered.
    """

    def __init__(self, url: str, deadline: float) -> None:
        """Nothing is sent yet. Raises :class:`InputError` for a wrong url or deadline."""
        scheme, address = _parse_url(url)
        is_number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
        if not is_number or not 0 < deadline < math.inf:
            raise InputError(f"deadline: got {shown(deadline)}, expected seconds above 0")
        try:
            self._module = importlib.import_module(f"tritonclient.{scheme}")
            self._error = importlib.import_module("tritonclient.utils").InferenceServerException
        except ImportError as error:
            raise MissingError(
                f"tritonclient is not installed ({error}); pip install 'adaptrt[serve]'"
            ) from error
        self.url, self.deadline = url, deadline
        self._http = scheme == "http"
        # Refused, reset, timed out, closed: what passes when a server restarts.
        closed = _closed_by_server() if self._http else ()
        self._passing: tuple[type[Exception], ...] = (OSError, *closed)
        timeouts = {"network_timeout": deadline, "connection_timeout": deadline}
        self._client = self._module.InferenceServerClient(
            address, **(timeouts if self._http else {})
        )
        self._thread = threading.get_ident()
        self._reached = self._answered = False

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def parameters(self, model: str) -> dict[str, str]:
        """The parameters in a model's configuration."""
        config = self._retry(partial(self._model_config, model))
        return {n: v["string_value"] for n, v in config.get("parameters", {}).items()}

    def infer(self, model: str, inputs: Arrays, output_names: list[str]) -> dict[str, NDArray[Any]]:
        """One request to a model; the named outputs of its answer. Object arrays hold bytes."""
        tensors = [self._tensor(name, array) for name, array in inputs.items()]
        outputs = [self._module.InferRequestedOutput(name) for name in output_names]

        def send(left: float) -> Any:
            limit = {} if self._http else {"client_timeout": left}
            return self._client.infer(model, tensors, outputs=outputs, **limit)

        answer = self._retry(send)
        return {name: answer.as_numpy(name) for name in output_names}

    def _model_config(self, model: str, left: float) -> dict[str, Any]:
        config: dict[str, Any]
        if self._http:
            config = self._client.get_model_config(model)
        else:
            answer = self._client.get_model_config(model, as_json=True, client_timeout=left)
            config = answer["config"]
        return config

    def _tensor(self, name: str, array: NDArray[Any]) -> Any:
        tensor = self._module.InferInput(name, list(array.shape), _TYPES[str(array.dtype)])
        tensor.set_data_from_numpy(array)
        return tensor

    def _retry(self, send: Callable[[float], Any]) -> Any:
        """Try until the deadline, with pauses that double and differ between clients."""
        if self._http and threading.get_ident() != self._thread:  # its greenlets would never wake
            raise AdaptrtError(
                f"{self.url}: used in another thread than it was made in; make one in each"
            )
        begin = time.monotonic()
        if not self._reached:
            self._connect(begin)
        for _ in self._attempts(begin):
            try:
                answer = send(max(begin + self.deadline - time.monotonic(), 0.001))
            except self._error as error:
                message, status = one_line(str(error.message())), error.status()
                self._answered = self._answered or _NO_ANSWER not in message
                if status in _BAD_INPUT:
                    raise InputError(message) from error
                if any(words in message for words in _OTHER_PROTOCOL):
                    raise self._wrong_protocol("gRPC", "HTTP") from error
                if status not in _TRANSIENT:
                    raise AdaptrtError(f"{self.url}: {message}") from error
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
            f"{self.url}: no answer within {waited:g} s ({one_line(str(last))}); is the "
            f"server up, are its models ready, and is this its {'HTTP' if self._http else 'gRPC'} "
            "port?"
        ) from last

    def _connect(self, begin: float) -> None:
        """See whether anything listens; gRPC and HTTP would take the whole deadline for it."""
        place = urlsplit(self.url)
        for left in self._attempts(begin):
            try:
                socket.create_connection((place.hostname, place.port or 0), left).close()
            except OSError as error:
                last = error
            else:
                self._reached = True
                return
        raise AdaptrtError(
            f"{self.url}: nothing listens there ({one_line(str(last))}); start the server "
            "(`make serve`), or check host and port"
        ) from last

    @property
    def _patience(self) -> float:
        """Seconds; a server that has never answered is more likely none of ours than busy."""
        return self.deadline if self._answered else min(self.deadline, _FIRST_CONTACT)

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
            f"{self.url}: what listens there does not speak {ours}; is it the server's "
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
